"""HOW is a tensor quantized? Tensors in, tensors out; knows nothing of layers or tasks."""
