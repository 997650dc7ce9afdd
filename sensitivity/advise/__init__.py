"""What a study advises: which layers dip, which to protect, what that costs. Reads records, never a model."""
