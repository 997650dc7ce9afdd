"""Records as JSON that any reader accepts: numbers that are not finite, which JSON has not, written as objects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_KEY = "number"


def to_plain(value: Any) -> Any:
    """The same nest with tuples as lists, and NaN and infinities as ``{"number": "nan"}``."""
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_KEY: str(value)}
    return value


def from_plain(value: Any) -> Any:
    """The nest that ``to_plain`` described, but for tuples."""
    if isinstance(value, Mapping):
        if set(value) == {_KEY}:
            return float(value[_KEY])
        return {key: from_plain(item) for key, item in value.items()}
    return [from_plain(item) for item in value] if isinstance(value, list) else value
