"""Public models, each in a process of its own: ``python -m tests.matrix [family ...]`` writes what works to a table."""
