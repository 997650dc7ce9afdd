"""What works on this machine: every engine is tried on one convolution."""
