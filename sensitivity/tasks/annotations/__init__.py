"""Annotation files: read, checked, and brought into the forms that are scored."""
