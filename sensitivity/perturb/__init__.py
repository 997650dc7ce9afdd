"""Perturb one place, then leave no trace."""
