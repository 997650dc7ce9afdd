"""What boxes and labels look like where they fit no object: another form, another scale, labels off by one.

The best boxes of each image, as many as it has objects, are compared with the objects: as they are, and as if they had
been meant in each of the ways that adapters get wrong. A weak or random detector fits in none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sensitivity.tasks.datasets import Size

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_OVERLAP = 0.5
_FEW, _MANY = 3, 20
"""Boxes below which nothing is said, and from which on a quarter of them is enough."""


@dataclass(frozen=True)
class Seen:
    """The objects of an image and the best of its predictions.

    Attributes:
        truth: (G, 4) boxes of the objects, ``x1, y1, x2, y2`` in original pixels.
        truth_categories: (G,) category ids.
        boxes: (B, 4) the best boxes, B at most G, as the adapter gave them.
        categories: (B,) category ids.
        position: Of the image in the task.
        size: (height, width) of the image.
    """

    truth: Floats
    truth_categories: Ints
    boxes: Floats
    categories: Ints
    position: int
    size: Size


def _from_sides(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _from_centre(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


_ORDERS: dict[str, tuple[Callable[[Floats], Floats], str]] = {
    "x1, y1, x2, y2": (lambda boxes: boxes, ""),
    "x, y, width, height": (_from_sides, "add x and y to width and height"),
    "centre x, centre y, width, height": (_from_centre, "subtract and add half of width and height"),
    "y1, x1, y2, x2": (lambda boxes: boxes[:, [1, 0, 3, 2]], "exchange x and y: boxes[:, [1, 0, 3, 2]]"),
}


def _fitted(size: Size, input_size: Size) -> float:
    return max(size[0] / input_size[0], size[1] / input_size[1])


# factors of x and y, then what is taken from x and y first
_UNITS: dict[str, tuple[Callable[[Size, Size], tuple[float, float, float, float]], str]] = {
    "pixels of the original image": (lambda _size, _shown: (1.0, 1.0, 0.0, 0.0), ""),
    "fractions of the image": (
        lambda size, _shown: (size[1], size[0], 0.0, 0.0),
        "multiply x by the original width and y by the original height",
    ),
    "pixels of the network's input": (
        lambda size, shown: (size[1] / shown[1], size[0] / shown[0], 0.0, 0.0),
        "scale them from the network's input to the original size, e.g. with Resize.to_original",
    ),
    "pixels of the network's input, into whose corner the image was fitted": (
        lambda size, shown: (_fitted(size, shown), _fitted(size, shown), 0.0, 0.0),
        "divide them by the factor that the image was resized with, e.g. with Resize.to_original",
    ),
    "pixels of the network's input, into whose middle the image was fitted": (
        lambda size, shown: (
            _fitted(size, shown),
            _fitted(size, shown),
            (shown[1] - size[1] / _fitted(size, shown)) / 2,
            (shown[0] - size[0] / _fitted(size, shown)) / 2,
        ),
        "subtract the border and divide by the factor that the image was resized with",
    ),
    "fractions that were multiplied by height and width exchanged": (
        lambda size, _shown: (size[1] / size[0], size[0] / size[1], 0.0, 0.0),
        "sizes are (height, width): multiply x by sizes[i][1] and y by sizes[i][0]",
    ),
}


_GIVEN = ("x1, y1, x2, y2", "pixels of the original image")


def boxes_look_like(images: Sequence[Seen], input_size: Callable[[int], Size]) -> str | None:
    """What is said of boxes that fit objects in another reading much better than as they are; None if they do not.

    Args:
        images: What to look at.
        input_size: Called with the position of an image, (height, width) of what the network saw; only called where
            the boxes do not fit as they are.
    """
    total = sum(len(image.boxes) for image in images)
    if total < _FEW:
        return None
    as_given = _fitting(images, _GIVEN, [image.size for image in images])
    if as_given > 0.25 * total:
        return None
    shown = [input_size(image.position) for image in images]
    fits = {reading: _fitting(images, reading, shown) for reading in product(_ORDERS, _UNITS)}
    order, unit = max(fits, key=lambda reading: fits[reading])
    best = fits[order, unit]
    if best < (0.25 if total >= _MANY else 0.75) * total or best < max(4 * as_given, _FEW):
        return None
    advice = "; ".join(text for text in (_UNITS[unit][1], _ORDERS[order][1]) if text)
    return (
        f"of the {total} best boxes {as_given / total:.0%} overlap an object by half, but {best / total:.0%} would if "
        f"they were {order} in {unit}. The adapter must return x1, y1, x2, y2 in pixels of the original "
        f"image: {advice}."
    )


def labels_look_like(images: Sequence[Seen], readings: Mapping[str, Mapping[int, int]]) -> str | None:
    """What is said of labels of boxes that fit, if another reading of the labels is right and theirs is not.

    Args:
        images: What to look at.
        readings: For each advice the category id that each category id would become.
    """
    pairs = [pair for image in images for pair in _pairs(image)]
    if len(pairs) < _FEW + 2:
        return None
    right = sum(category == truth for category, truth in pairs)
    by_advice = {
        advice: sum(table.get(category) == truth for category, truth in pairs) for advice, table in readings.items()
    }
    advice = max(by_advice, key=lambda text: by_advice[text], default=None)
    if advice is None or right > 0.2 * len(pairs) or by_advice[advice] < 0.7 * len(pairs):
        return None
    return (
        f"of the {len(pairs)} best boxes that fit an object {right / len(pairs):.0%} have its category, but "
        f"{by_advice[advice] / len(pairs):.0%} would {advice}."
    )


def label_readings(categories: Mapping[int, int], category_ids: Sequence[int]) -> dict[str, dict[int, int]]:
    """Other meanings that labels may have, for ``labels_look_like``.

    Args:
        categories: Category id of each label.
        category_ids: All of the file, ascending.
    """
    label_of = {category: label for label, category in reversed(list(categories.items()))}
    meanings: dict[str, Callable[[int], int | None]] = {
        "if labels were one lower (is label 0 the background?)": lambda label: categories.get(label - 1),
        "if labels were one higher": lambda label: categories.get(label + 1),
        "with labels='index'": dict(enumerate(category_ids)).get,
        "with labels='index' and labels one lower (is label 0 the background?)": dict(enumerate(category_ids, 1)).get,
        "with labels='category_id'": {category: category for category in category_ids}.get,
    }
    readings: dict[str, dict[int, int]] = {}
    for advice, meaning in meanings.items():
        table = {category: meaning(label) for category, label in label_of.items()}
        readings[advice] = {category: other for category, other in table.items() if other is not None}
    return readings


def best_first(scores: Floats, count: int) -> Ints:
    """Indices of so many best scores, best first, equal ones as given."""
    order: Any = np.argsort(-scores, kind="stable")[:count]
    return np.asarray(order, np.int64)


def _fitting(images: Sequence[Seen], reading: tuple[str, str], shown: Sequence[Size]) -> int:
    """How many boxes overlap an object by half, read in this way."""
    fitting = 0
    order, unit = reading
    for image, input_size in zip(images, shown, strict=True):
        across, down, left, top = _UNITS[unit][0](image.size, input_size)
        corners = _ORDERS[order][0](image.boxes) - np.array([left, top, left, top])
        overlaps = _ious(corners * np.array([across, down, across, down]), image.truth)
        fitting += int((overlaps.max(axis=1, initial=0.0) >= _OVERLAP).sum())
    return fitting


def _pairs(image: Seen) -> list[tuple[int, int]]:
    """Category ids of each box that fits an object, and of the object."""
    if not len(image.boxes) or not len(image.truth):
        return []
    overlaps = _ious(image.boxes, image.truth)
    best = overlaps.argmax(axis=1)
    fits = np.flatnonzero(overlaps.max(axis=1) >= _OVERLAP)
    return [(int(image.categories[box]), int(image.truth_categories[best[box]])) for box in fits]


def _ious(boxes: Floats, others: Floats) -> Floats:
    """(B, G) intersection over union; 0 for boxes turned inside out."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        low = np.maximum(boxes[:, None, :2], others[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
        shared = np.maximum(high - low, 0.0).prod(axis=2)
        areas = [np.maximum(some[:, 2:] - some[:, :2], 0.0).prod(axis=1) for some in (boxes, others)]
        ious: Floats = np.nan_to_num(shared / (areas[0][:, None] + areas[1][None, :] - shared), nan=0.0, posinf=0.0)
    return ious
