"""What boxes, poses and labels look like where they fit no object: another form, another scale, labels off by one.

The best shapes of each image, as many as it has objects, are compared with the objects: as they are, and as if they had
been meant in each of the ways that adapters get wrong. A weak or random detector fits in none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sensitivity.tasks.datasets import Size
from sensitivity.tasks.first_look.label_mapping import consistent_exchange, is_better_reading, share_right, some_of

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_OVERLAP = 0.5
_FEW, _SOME, _MANY = 3, 8, 20
"""Shapes below which nothing is said, below which all must fit, and from which on a quarter of them is enough.

Dozens of readings are tried, and one of them fits three of four random boxes easily.
"""
ENOUGH_IMAGES = 16
"""From so many images and objects on, a metric of 0 is worth a word."""
_RIGHT, _LIKELY = 0.2, 0.7
"""Share of right labels above which nothing is said of them, and from which on another reading needs no more proof."""


@dataclass(frozen=True)
class PredictedImage:
    """The objects of an image and the best of its predictions.

    Attributes:
        overlaps: Called with (B, P, 2) points in original pixels; gives how well each shape fits each of the G objects,
            (B, G) in [0, 1].
        truth_categories: (G,) category ids.
        points: (B, P, 2) x and y of the best shapes as the adapter gave them, B at most G: two corners, or keypoints.
        categories: (B,) category ids.
        position: Of the image in the task.
        size: (height, width) of the image.
    """

    overlaps: Callable[[Floats], Floats]
    truth_categories: Ints
    points: Floats
    categories: Ints
    position: int
    size: Size


Order: TypeAlias = tuple[Callable[[Floats], Floats], str]
"""What makes points of a shape that was meant in another order, and what to do about it."""


def _from_sides(points: Floats) -> Floats:
    return np.stack([points[:, 0], points[:, 0] + points[:, 1]], axis=1)


def _from_centre(points: Floats) -> Floats:
    return np.stack([points[:, 0] - points[:, 1] / 2, points[:, 0] + points[:, 1] / 2], axis=1)


BOX_ORDERS: dict[str, Order] = {
    "x1, y1, x2, y2": (lambda points: points, ""),
    "x, y, width, height": (_from_sides, "add x and y to width and height"),
    "centre x, centre y, width, height": (_from_centre, "subtract and add half of width and height"),
    "y1, x1, y2, x2": (lambda points: points[:, :, ::-1], "exchange x and y: boxes[:, [1, 0, 3, 2]]"),
    "x1, x2, y1, y2": (lambda points: points.transpose(0, 2, 1), "exchange x2 and y1: boxes[:, [0, 2, 1, 3]]"),
}
POSE_ORDERS: dict[str, Order] = {
    "x, y": (lambda points: points, ""),
    "y, x": (lambda points: points[:, :, ::-1], "exchange x and y: keypoints[..., [1, 0]]"),
}


def _fitted(size: Size, input_size: Size) -> float:
    return max(size[0] / input_size[0], size[1] / input_size[1])


def _from_corner(size: Size, shown: Size) -> tuple[float, float, float, float]:
    return (_fitted(size, shown), _fitted(size, shown), 0.0, 0.0)


def _from_middle(size: Size, shown: Size) -> tuple[float, float, float, float]:
    factor = _fitted(size, shown)
    return (factor, factor, (shown[1] - size[1] / factor) / 2, (shown[0] - size[0] / factor) / 2)


def _of_fractions(
    reading: Callable[[Size, Size], tuple[float, float, float, float]],
) -> Callable[[Size, Size], tuple[float, float, float, float]]:
    """The reading of fractions of the network's input, whose pixels are read so."""

    def read(size: Size, shown: Size) -> tuple[float, float, float, float]:
        across, down, left, top = reading(size, shown)
        return (across * shown[1], down * shown[0], left / shown[1], top / shown[0])

    return read


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
        _from_corner,
        "divide them by the factor that the image was resized with, e.g. with Resize.to_original",
    ),
    "pixels of the network's input, into whose middle the image was fitted": (
        _from_middle,
        "subtract the border and divide by the factor that the image was resized with",
    ),
    "fractions of the network's input, into whose corner the image was fitted": (
        _of_fractions(_from_corner),
        "multiply them by the size of the network's input and divide them by the factor that the image was resized "
        "with, e.g. with Resize.to_original",
    ),
    "fractions of the network's input, into whose middle the image was fitted": (
        _of_fractions(_from_middle),
        "multiply them by the size of the network's input, subtract the border and divide by the factor that the image "
        "was resized with",
    ),
    "fractions that were multiplied by height and width exchanged": (
        lambda size, _shown: (size[1] / size[0], size[0] / size[1], 0.0, 0.0),
        "sizes are (height, width): multiply x by sizes[i][1] and y by sizes[i][0]",
    ),
    "pixels of the original image that were scaled once more": (
        lambda size, shown: (shown[1] / size[1], shown[0] / size[0], 0.0, 0.0),
        "they are in original pixels already: leave out the scaling",
    ),
}

_PIXELS = "pixels of the original image"


def shapes_look_like(
    images: Sequence[PredictedImage], input_size: Callable[[int], Size], *, noun: str, orders: Mapping[str, Order]
) -> str | None:
    """What is said of shapes that fit objects in another reading much better than as they are; None if they do not.

    Args:
        images: What to look at.
        input_size: Called with the position of an image, (height, width) of what the network saw; only called where
            the shapes do not fit as they are.
        noun: What they are called, in the plural.
        orders: The orders of numbers that they could be meant in, the right one first.
    """
    total = sum(len(image.points) for image in images)
    if total < _FEW:
        return None
    right = next(iter(orders))
    as_given = _fitting(images, orders[right][0], _PIXELS, [image.size for image in images])
    if as_given > 0.25 * total:
        return None
    shown = [input_size(image.position) for image in images]
    fits = {(order, unit): _fitting(images, orders[order][0], unit, shown) for order, unit in product(orders, _UNITS)}
    order, unit = max(fits, key=lambda reading: fits[reading])
    best = fits[order, unit]
    enough = 0.25 if total >= _MANY else 0.75 if total >= _SOME else 1.0
    if best < enough * total or best < max(4 * as_given, _FEW):
        return None
    advice = "; ".join(text for text in (_UNITS[unit][1], orders[order][1]) if text)
    return (
        f"of the {total} best {noun} {as_given / total:.0%} overlap an object by half, but {best / total:.0%} would if "
        f"they were {order} in {unit}. The adapter must return {right} in pixels of the original "
        f"image: {advice}."
    )


def labels_look_like(images: Sequence[PredictedImage], readings: Mapping[str, Mapping[int, int]]) -> str | None:
    """What is said of labels of shapes that fit, if another reading of the labels is right and theirs is not.

    Args:
        images: What to look at.
        readings: For each advice the category id that each category id would become.
    """
    meetings = Counter(pair for image in images for pair in _pairs(image))
    total = meetings.total()
    if total < _FEW + 2:
        return None
    right = share_right(meetings)
    advice = max(readings, key=lambda text: share_right(meetings, readings[text]), default=None)
    exchange = consistent_exchange(meetings)
    if advice is not None and right <= _RIGHT:
        best = share_right(meetings, readings[advice])
        if best >= _LIKELY or (exchange is None and is_better_reading(meetings, readings[advice])):
            return (
                f"of the {total} best boxes that fit an object {right:.0%} have its category, but {best:.0%} would "
                f"{advice}."
            )
    if exchange is None:
        return None
    best = share_right(meetings, exchange)
    return (
        f"of the {total} best boxes that fit an object {right:.0%} have its category, but {best:.0%} would if "
        f"categories were exchanged: {some_of(exchange)}. Give labels= in the order of the model's labels."
    )


def nothing_fits(images: Sequence[PredictedImage], scores: Floats, noun: str) -> str | None:
    """What is said of predictions that score 0 on enough images to wonder, where no other reading fits.

    Args:
        images: What to look at.
        scores: (N,) of all predictions on these images.
        noun: What the shapes are called, in the plural.
    """
    objects = sum(len(image.truth_categories) for image in images)
    if len(images) < ENOUGH_IMAGES or objects < ENOUGH_IMAGES:
        return None
    if not len(scores):
        return f"the adapter returned no {noun} for {objects} objects: look at its threshold of the scores."
    fitting = sum(len(_pairs(image)) for image in images)
    points = np.concatenate([image.points.reshape(-1, 2) for image in images])
    low, high = points.min(axis=0), points.max(axis=0)
    height, width = np.max([image.size for image in images], axis=0)
    return (
        f"of the {len(scores)} {noun} with scores of {scores.min():.3g} to {scores.max():.3g} the best have x from "
        f"{low[0]:.4g} to {high[0]:.4g} and y from {low[1]:.4g} to {high[1]:.4g}, in images of up to {width:.0f} x "
        f"{height:.0f} pixels; {fitting} of them overlap one of the {objects} objects by half. Look at the model's "
        "weights, at what preprocess makes of an image and at the order of the labels."
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
        "with labels='category_id' and labels one higher": {category - 1: category for category in category_ids}.get,
    }
    readings: dict[str, dict[int, int]] = {}
    for advice, meaning in meanings.items():
        table = {category: meaning(label) for category, label in label_of.items()}
        readings[advice] = {category: other for category, other in table.items() if other is not None}
    return readings


def unknown_labels_look_like(labels: Collection[int], categories: Mapping[int, int]) -> str:
    """What to do about labels of which some are no category, as far as the labels themselves tell.

    Args:
        labels: All of a prediction.
        categories: Category id of each label that is known.
    """
    category_ids = sorted(set(categories.values()))
    by_id = categories == {category: category for category in category_ids}
    by_index = categories == dict(enumerate(category_ids))
    if by_index and 0 not in labels and set(labels) <= set(category_ids):
        ids = "They look like category ids: set labels='category_id'"
        if set(labels) <= set(range(1, len(category_ids) + 1)):
            return f"{ids}, or subtract 1 where label 0 is the background."
        return f"{ids}."
    if by_index and set(labels) <= set(range(1, len(category_ids) + 1)):
        return "They look as if they were counted from 1: subtract 1, as label 0 seems to be the background."
    if by_id and set(labels) <= set(range(len(category_ids))):
        return "They look like indices of the ascending category ids: set labels='index'."
    return "Set labels= to 'index', 'category_id' or the category id of each label."


def best_first(scores: Floats, count: int) -> Ints:
    """Indices of so many best scores, best first, equal ones as given."""
    order: Any = np.argsort(-scores, kind="stable")[:count]
    return np.asarray(order, np.int64)


def _fitting(
    images: Sequence[PredictedImage], order: Callable[[Floats], Floats], unit: str, shown: Sequence[Size]
) -> int:
    """How many shapes overlap an object by half, read in this way."""
    fitting = 0
    for image, input_size in zip(images, shown, strict=True):
        across, down, left, top = _UNITS[unit][0](image.size, input_size)
        points = (order(image.points) - np.array([left, top])) * np.array([across, down])
        fitting += int((image.overlaps(points).max(axis=1, initial=0.0) >= _OVERLAP).sum())
    return fitting


def _pairs(image: PredictedImage) -> list[tuple[int, int]]:
    """Category ids of each shape that fits an object, and of the object."""
    if not len(image.points) or not len(image.truth_categories):
        return []
    overlaps = image.overlaps(image.points)
    best = overlaps.argmax(axis=1)
    fits = np.flatnonzero(overlaps.max(axis=1) >= _OVERLAP)
    return [(int(image.categories[shape]), int(image.truth_categories[best[shape]])) for shape in fits]


def corner_overlaps(corners: Floats, truth: Floats) -> Floats:
    """(B, G) intersection over union of boxes (B, 2, 2) and (G, 2, 2) by two corners; 0 for those turned inside out."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        low = np.maximum(corners[:, None, 0], truth[None, :, 0])
        high = np.minimum(corners[:, None, 1], truth[None, :, 1])
        shared = np.maximum(high - low, 0.0).prod(axis=2)
        areas = [np.maximum(boxes[:, 1] - boxes[:, 0], 0.0).prod(axis=1) for boxes in (corners, truth)]
        ious: Floats = np.nan_to_num(shared / (areas[0][:, None] + areas[1][None, :] - shared), nan=0.0, posinf=0.0)
    return ious
