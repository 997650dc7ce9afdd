"""Layers that are not quantized, emulated in half precision."""
