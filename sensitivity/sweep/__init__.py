"""Do it for every layer, fast, and survive a power cut."""
