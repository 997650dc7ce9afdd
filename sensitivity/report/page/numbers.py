"""Numbers as JSON has them."""

from __future__ import annotations

from math import isfinite


def finite(number: float | None) -> float | None:
    """A number that JSON has, in six digits; None for every other."""
    return None if number is None or not isfinite(number) else float(f"{number:.6g}")
