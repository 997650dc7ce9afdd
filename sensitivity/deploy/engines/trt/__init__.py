"""TensorRT: build, run, profile and inspect an engine."""
