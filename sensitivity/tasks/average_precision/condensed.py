"""Boxes that are scored as others are, and take almost no room.

A box that finds no object at any threshold is a mistake wherever it stands: what a score depends on is whether it is
small, medium or large. The thousands of such boxes that a detector predicts then are three different ones, which
compress to nothing.
"""

from __future__ import annotations

import numpy as np

from sensitivity.tasks.average_precision.matching import ALL_CRITERIA, Floats, Words, criteria_of_areas

_FAR_AWAY = -10_000.0  # left of and above every image
_SIDES = np.array([1.0, 64.0, 128.0])  # of a small, a medium and a large box, in pixels
STAND_INS: Floats = _FAR_AWAY + np.stack([0 * _SIDES, 0 * _SIDES, _SIDES, _SIDES], axis=1)
"""(3, 4) corners."""


def condensed_boxes(boxes: Floats, true: Words, ignored: Words) -> Floats:
    """The same boxes where they find an object, and stand-ins of the same class of size where they do not.

    A box whose area belongs to two classes or to none stays what it is.

    Args:
        boxes: (N, 4) ``x1, y1, x2, y2`` in pixels.
        true: (N,) words: criteria in which each found an object; see ``matching``.
        ignored: (N,) words: criteria in which it does not count.
    """
    unlike_their_size = ~criteria_of_areas(_SIDES**2) & ALL_CRITERIA
    same_class = ignored[:, None] == unlike_their_size
    exchanged = (true == 0) & same_class.any(axis=1)
    condensed: Floats = np.where(exchanged[:, None], STAND_INS[same_class.argmax(axis=1)], boxes)
    return condensed
