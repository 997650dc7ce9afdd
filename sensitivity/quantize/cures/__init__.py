"""What makes a layer survive quantization at no cost: bias correction, equalization, compensated rounding."""
