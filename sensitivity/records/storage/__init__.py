"""Records as files: JSON both ways, written in one step."""
