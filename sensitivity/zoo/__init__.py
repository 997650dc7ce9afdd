"""Models that ship with the library: EfficientViT-SAM in its five published sizes and a tiny one."""
