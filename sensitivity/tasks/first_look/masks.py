"""What masks of prompts look like where they do not cover what is pointed at: empty, inverted, in another frame.

A promptable model answers where it is asked. So a mask that lies elsewhere was asked in other pixels than those of the
original image, or was brought back to it in another way; a model that is only weak still answers at the right place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sensitivity.tasks.datasets import Size
from sensitivity.tasks.first_look.objects import corner_overlaps

Floats: TypeAlias = npt.NDArray[np.float64]

_OVERLAP = 0.5
_ENOUGH_MASKS = 8
"""Below so many nothing is said: another frame is found from two numbers on each axis."""
_RIGHT, _LIKELY = 0.25, 0.75
"""Share of masks at the right place above which nothing is said, and of those that one explanation must fit."""
_WHOLE = 0.99
"""Share of an image from which on a mask covers all of it."""


@dataclass(frozen=True)
class PromptedImage:
    """The masks of an image, and what their prompts point at.

    Attributes:
        boxes: (P, 4) left, top, right and bottom of each mask in pixels; zeros where it is empty.
        areas: (P,) pixels of each mask.
        target_boxes: (P, 4) of what each prompt points at.
        target_areas: (P,) pixels of it.
        size: (height, width) of the image.
    """

    boxes: Floats
    areas: Floats
    target_boxes: Floats
    target_areas: Floats
    size: Size


def masks_look_like(images: Sequence[PromptedImage]) -> str | None:
    """What is said of masks that are not where their prompts point; None where a quarter of them are.

    Args:
        images: What to look at.
    """
    boxes, targets = (np.concatenate([getattr(image, name) for image in images]) for name in ("boxes", "target_boxes"))
    areas, wanted = (np.concatenate([getattr(image, name) for image in images]) for name in ("areas", "target_areas"))
    pixels = np.concatenate([np.full(len(image.areas), float(np.prod(image.size))) for image in images])
    if len(boxes) < _ENOUGH_MASKS:
        return None
    right = _overlapping(boxes, targets)
    if right > _RIGHT:
        return None
    summary = f"of {len(boxes)} masks {right:.0%} overlap the box that is pointed at by half"
    for share, sentence in (
        (np.mean(areas == 0), _EMPTY),
        (np.mean((np.abs(areas + wanted - pixels) <= 0.25 * wanted) & (areas > wanted)), _INVERTED),
        (np.mean((areas >= _WHOLE * pixels) & (wanted < _WHOLE / 2 * pixels)), _EVERYWHERE),
    ):
        if share >= _LIKELY:
            return f"{summary}, and {share:.0%} {sentence}"
    return _another_frame(summary, boxes, targets)


_EMPTY = (
    "are empty. segment must return logits that are above 0 inside, or bools. Look at the sign and the threshold of "
    "the masks, at whether the prompts reach the model, and at its weights."
)
_INVERTED = (
    "cover all but what is pointed at: they look like masks of the background. segment must return logits that are "
    "above 0 inside: change their sign, or take the other channel."
)
_EVERYWHERE = (
    "cover the whole image. segment must return logits that are above 0 inside, or bools: give probabilities as "
    "masks > 0.5, and label maps as labels == the object's. Where they are right, look at the model's weights."
)


def _another_frame(summary: str, boxes: Floats, targets: Floats) -> str | None:
    """What is said of masks whose boxes fit once x and y are scaled and shifted, or exchanged before."""
    readings = {exchanged: _fitted(boxes, targets, exchanged=exchanged) for exchanged in (False, True)}
    exchanged = readings[True][0] > readings[False][0]
    fits, factors, shifts = readings[exchanged]
    if fits < _LIKELY:
        return None
    change = [f"{name} were multiplied by {factor:.3g}" for name, factor in zip("xy", factors, strict=True)]
    change = [text for text, factor in zip(change, factors, strict=True) if abs(factor - 1.0) > 0.02]
    change += [
        f"{name} were shifted by {shift:.3g} pixels"
        for name, shift in zip("xy", shifts, strict=True)
        if abs(shift) >= 1.0
    ]
    how = " and ".join([*(["x and y were exchanged"] if exchanged else []), *change])
    return (
        f"{summary}, but {fits:.0%} would if {how}. Prompts are x, y in pixels of the original image, and masks must "
        "be as large as it: give the model its prompts scaled as the image is, and scale its masks back, without the "
        "border."
    )


def _fitted(boxes: Floats, targets: Floats, *, exchanged: bool) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Share of boxes that overlap their target by half after one factor and one shift for each axis, and these."""
    filled = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    read = boxes[:, [1, 0, 3, 2]] if exchanged else boxes
    if filled.mean() < _LIKELY:
        return 0.0, (1.0, 1.0), (0.0, 0.0)
    factors, shifts, moved = [], [], read.copy()
    for axis in (0, 1):
        low, high, wanted = read[filled, axis], read[filled, axis + 2], targets[filled][:, [axis, axis + 2]]
        factor = float(np.median((wanted[:, 1] - wanted[:, 0]) / (high - low)))
        shift = float(np.median(wanted.mean(axis=1) - factor * (low + high) / 2))
        moved[:, [axis, axis + 2]] = factor * read[:, [axis, axis + 2]] + shift
        factors.append(factor)
        shifts.append(shift)
    return _overlapping(moved, targets), tuple(factors), tuple(shifts)


def _overlapping(boxes: Floats, targets: Floats) -> float:
    """Share of boxes that overlap the box at the same place by half."""
    pairs = zip(boxes.reshape(-1, 1, 2, 2), targets.reshape(-1, 1, 2, 2), strict=True)
    return float(np.mean([corner_overlaps(box, target)[0, 0] >= _OVERLAP for box, target in pairs]))
