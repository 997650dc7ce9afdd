"""Choosing a recipe for every layer until a target is met, measured in context."""
