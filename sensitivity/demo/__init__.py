"""The embedded default: generated scenes, and a tiny EfficientViT-SAM trained on them."""
