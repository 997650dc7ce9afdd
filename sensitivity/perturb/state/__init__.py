"""What a forward pass may change besides its outputs, remembered and put back."""
