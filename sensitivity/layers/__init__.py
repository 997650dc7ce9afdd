"""WHERE can a model be perturbed? Conv + norm + activation layers, found by data flow and named."""
