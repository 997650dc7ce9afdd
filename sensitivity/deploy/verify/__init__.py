"""Does the engine compute what was simulated? Layer by layer, at the outputs, in the metric."""
