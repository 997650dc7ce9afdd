"""Which boxes of an image are in both predictions, which were lost, and which are new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sensitivity.records.results.changed_images import SeenBox

SAME_IOU = 0.5
"""Two boxes of one class that overlap so much are one object."""


@dataclass(frozen=True, slots=True)
class BoxChanges:
    """The boxes of two predictions.

    Attributes:
        pairs: Boxes that are in both, before and after.
        lost: Boxes that are only in the prediction before.
        new: Boxes that are only in the prediction after.
    """

    pairs: tuple[tuple[SeenBox, SeenBox], ...]
    lost: tuple[SeenBox, ...]
    new: tuple[SeenBox, ...]


def box_changes(before: Sequence[SeenBox], after: Sequence[SeenBox]) -> BoxChanges:
    """Each box before, in order, takes the box after of its class that overlaps most and is still free.

    Args:
        before: Boxes in float, the best first.
        after: Boxes quantized.
    """
    pairs, lost, free = [], [], list(after)
    for box in before:
        candidates = [other for other in free if other.label == box.label and overlap(box, other) >= SAME_IOU]
        if not candidates:
            lost.append(box)
            continue
        partner = max(candidates, key=lambda other: overlap(box, other))
        free.remove(partner)
        pairs.append((box, partner))
    return BoxChanges(tuple(pairs), tuple(lost), tuple(free))


def overlap(box: SeenBox, other: SeenBox) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    width, height = (
        max(0.0, min(box.corners[end], other.corners[end]) - max(box.corners[start], other.corners[start]))
        for start, end in ((0, 2), (1, 3))
    )
    union = _area(box) + _area(other) - width * height
    return width * height / union if union > 0.0 else 0.0


def _area(box: SeenBox) -> float:
    left, top, right, bottom = box.corners
    return max(0.0, right - left) * max(0.0, bottom - top)
