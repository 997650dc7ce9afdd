"""WHERE can a model be disturbed? Conv + norm + activation layers, found by data flow and named."""
