"""Disturb one place, then leave no trace."""
