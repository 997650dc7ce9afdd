"""Precision and recall of matched detections, category by category."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.tasks.ground_truth import GroundTruth, Matches
from sensitivity.tasks.matching import IOU_THRESHOLDS, Bools, Floats, Ints, by_threshold, place_in_run

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Curves:
    """Precision and recall at one object size, of the C categories that have objects of it.

    Attributes:
        categories: (C,) index of each category, ascending.
        precision: (10, C, 101) by IoU threshold and recall level: the best precision at this recall or a higher one; 0
            where the level is not reached.
        recall: (10, C) for each limit on the detections of a category in an image.
    """

    categories: Ints
    precision: Floats
    recall: dict[int, Floats]

    def average_precision(self, *, iou: float | None = None, among: Bools | None = None) -> float:
        """Mean over IoU thresholds, recall levels and categories; NaN if there is no category.

        Args:
            iou: One IoU threshold; None for all.
            among: (K,) whether to average over each category of the file; None for all.
        """
        precision = self.precision if iou is None else self.precision[iou == IOU_THRESHOLDS]
        if among is not None:
            precision = precision[:, among[self.categories]]
        return _mean(precision.transpose(0, 2, 1))  # pycocotools' order, which decides the last bit of a mean

    def average_recall(self, limit: int) -> float:
        """Mean over IoU thresholds and categories; NaN if there is no category.

        Args:
            limit: Detections of a category in an image, one of ``recall``.
        """
        return _mean(self.recall[limit])


def curves(matches: Matches, objects: Ints, size: str, *, limits: tuple[int, ...]) -> Curves:
    """Count true and false positives from the best score down.

    Args:
        matches: What became of the detections.
        objects: (K,) number of objects of this size in each category.
        size: One of ``matching.SIZES``.
        limits: Detections of a category in an image up to which recall is given.

    Source:
        ``COCOeval.accumulate`` of pycocotools 2.0.11: the same numbers to the last bit.
    """
    categories = np.flatnonzero(objects)
    shape = len(IOU_THRESHOLDS), len(categories)
    if not len(categories):
        return Curves(categories, np.zeros((*shape, len(RECALL_LEVELS))), {limit: np.zeros(shape) for limit in limits})
    never = by_threshold(matches.ignored, size).all(axis=0) | (objects[matches.categories] == 0)
    seen = np.flatnonzero(~never)
    columns = np.searchsorted(categories, matches.categories[seen])
    true = by_threshold(matches.true[seen], size)
    counted = np.zeros((len(true), len(seen) + 1), np.int64)
    np.cumsum(~by_threshold(matches.ignored[seen], size), axis=1, out=counted[:, 1:])
    thresholds, hits = np.nonzero(true)
    before = counted[:, np.searchsorted(columns, np.arange(len(categories)))]
    # A cell is a threshold and a category; hits are ascending by cell, and by falling score within one.
    cells = thresholds * len(categories) + columns[hits]
    detections = counted[thresholds, hits + 1] - before.ravel()[cells]
    precision = (place_in_run(cells) + 1) / (detections + np.spacing(1))
    ranks = matches.ranks[seen][hits]
    found = {limit: np.bincount(cells[ranks < limit], minlength=before.size).reshape(shape) for limit in limits}
    return Curves(
        categories=categories,
        precision=_at_recall_levels(precision, cells, objects[categories]).reshape(*shape, -1),
        recall={limit: number / objects[categories] for limit, number in found.items()},
    )


def curves_without(
    truth: GroundTruth,
    matches: Matches,
    places: Ints,
    images: Sequence[int],
    groups: Sequence[Sequence[int]],
    size: str,
    *,
    limits: tuple[int, ...],
) -> Iterator[Curves]:
    """Curves at one object size over the images less each group of them; nothing is matched again.

    Args:
        truth: The objects.
        matches: What became of the detections in all the images.
        places: (M,) position of the image of each match.
        images: Positions of the images.
        groups: Those left out, each time others.
        size: One of ``matching.SIZES``.
        limits: As for ``curves``.
    """
    for group in map(set, groups):
        rest = [image for image in images if image not in group]
        yield curves(matches.take(np.isin(places, rest)), truth.count(rest)[size], size, limits=limits)


def _mean(values: Floats) -> float:
    return float(np.mean(values.ravel())) if values.size else float("nan")


def _at_recall_levels(precision: Floats, cells: Ints, objects: Ints) -> Floats:
    """Best precision from each recall level on, (10 * C, 101).

    Args:
        precision: (H,) at each hit; between hits it only falls, so that nowhere else it can be the best.
        cells: (H,) ascending, threshold * C + category.
        objects: (C,) objects of each category.
    """
    hits = np.bincount(cells, minlength=len(IOU_THRESHOLDS) * len(objects))
    # Each cell ends with a precision of 0, for the levels that are never reached.
    padded = np.zeros(len(cells) + len(hits))
    padded[np.arange(len(cells)) + cells] = precision
    starts = np.cumsum(hits) - hits + np.arange(len(hits))
    needed = np.stack([_hits_needed(int(number)) for number in objects])
    reached = np.minimum(np.tile(needed, (len(IOU_THRESHOLDS), 1)), hits[:, None])
    best_until_next_level = np.maximum.reduceat(padded, (starts[:, None] + reached).ravel()).reshape(reached.shape)
    best: Floats = np.maximum.accumulate(best_until_next_level[:, ::-1], axis=1)[:, ::-1]
    return best


@functools.cache
def _hits_needed(objects: int) -> Ints:
    """How many hits come before each recall level is reached, (101,)."""
    return np.searchsorted(np.arange(1, objects + 1) / objects, RECALL_LEVELS)
