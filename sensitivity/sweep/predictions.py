"""Predictions are trees of dicts, lists, arrays, numbers and text: compared to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np


def same(left: Any, right: Any) -> bool:
    """Whether two predictions are equal: types, shapes, and every bit; a NaN equals itself."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        equal_nan = left.dtype.kind in "fc"
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=equal_nan)
    return bool(left == right or (left != left and right != right))
