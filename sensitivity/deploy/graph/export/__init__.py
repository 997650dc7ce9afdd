"""From the folded copy of a model to ONNX."""
