"""Predictions are trees of dicts, lists, arrays, numbers and text: compared to the last bit."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def bytes_of(tree: Any) -> int:
    """Memory that predictions take, roughly: their arrays and text, and what Python spends on each object."""
    if isinstance(tree, dict):
        return sys.getsizeof(tree) + sum(map(bytes_of, tree.values()))
    if isinstance(tree, (list, tuple)):
        return sys.getsizeof(tree) + sum(map(bytes_of, tree))
    if isinstance(tree, np.ndarray):
        return sys.getsizeof(tree) + (0 if tree.base is None else tree.nbytes)
    return sys.getsizeof(tree)


def same(left: Any, right: Any) -> bool:
    """Whether two predictions are equal: types, shapes, and every bit; so a NaN equals itself and -0.0 is not 0.0.

    Objects of other types, which predictions should not hold, equal themselves alone.
    """
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    if isinstance(left, float):
        return repr(left) == repr(right)
    return isinstance(left, (bool, int, str, bytes, np.generic)) and bool(left == right)
