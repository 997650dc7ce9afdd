"""The command line: what a command is given, what it makes of it, and what it prints."""
