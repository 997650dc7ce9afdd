"""What each layer's damage comes from, and which cure was measured to mend it."""
