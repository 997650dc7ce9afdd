"""Models that ship with the library: EfficientViT-SAM and MPViT in their published sizes, and norms to exchange."""
