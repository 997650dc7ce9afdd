"""When a drop is known well enough, and between which bounds it lies."""
