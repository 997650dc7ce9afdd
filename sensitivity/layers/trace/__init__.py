"""One pass of a model, written down: every operator, who feeds whom, and inside which module."""
