"""WHAT does good mean? Data and metrics; knows nothing of quantization."""
