"""Suites an outsider inherits: what passes them fits."""
