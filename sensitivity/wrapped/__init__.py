"""The object a notebook holds: a model with its layers, and the verbs that only call rooms."""

from sensitivity.wrapped.model import Wrapped, verify, wrap

__all__ = ["Wrapped", "verify", "wrap"]
