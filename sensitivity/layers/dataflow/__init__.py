"""Layers on a tape: operators that multiply by a weight, and what follows them by data flow."""
