"""Whether two lists of numbers put the same things in the same order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rank correlation, with mean ranks for ties; NaN where one side has fewer than two different values.

    Args:
        left: Numbers, none of them NaN.
        right: As many others, in the same order of things.
    """
    if len(set(left)) < 2 or len(set(right)) < 2:
        return math.nan
    left_ranks, right_ranks = _ranks(left), _ranks(right)
    middle = fmean(left_ranks)  # the same for both: ties share their places
    products = sum((a - middle) * (b - middle) for a, b in zip(left_ranks, right_ranks, strict=True))
    squares = [sum((rank - middle) ** 2 for rank in ranks) for ranks in (left_ranks, right_ranks)]
    return products / math.sqrt(squares[0] * squares[1])


def _ranks(values: Sequence[float]) -> list[float]:
    """Places from 1 on, the mean of their places for equal values."""
    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered, 1)))}
    last = {value: place for place, value in enumerate(ordered, 1)}
    return [(first[value] + last[value]) / 2 for value in values]
