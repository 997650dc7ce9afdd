"""A drop on parts of its images, and how far it may be from that of other images: the one formula of all intervals."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, hypot, sqrt


def standard_error(without: Sequence[float]) -> float:
    """Standard error of a number from what it is without each group of images (the delete-a-group jackknife).

    Args:
        without: (G,) numbers, each without one of the groups. NaN if one of them is.
    """
    count = len(without)
    mean = fsum(without) / count
    return sqrt((count - 1) / count * fsum((number - mean) ** 2 for number in without))


def shift_size(shifts: Sequence[float]) -> float:
    """Root mean square of how far halving the images shifts a number; 0 where nothing is known of it."""
    return sqrt(fsum(shift**2 for shift in shifts) / len(shifts)) if shifts else 0.0


def total_error(
    without: Sequence[float], shifts: Sequence[float], *, spread: float = 1.0, growth: float = 1.0
) -> float:
    """How far a number may typically be from that of more images, by chance and because there are more of them.

    Args:
        without: As for ``standard_error``.
        shifts: As for ``shift_size``.
        spread: What share of the standard error counts: less than 1 where some of the wanted images were seen.
        growth: How many times the shift of one halving counts.
    """
    return hypot(spread * standard_error(without), growth * shift_size(shifts))
