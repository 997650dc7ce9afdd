"""Passes over images that measure what recipes need: ranges and distributions."""
