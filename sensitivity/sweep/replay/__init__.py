"""Exact replay: after one recorded pass, recompute only what a perturbed layer can change."""
