"""Precision and recall of matched detections, category by category."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.tasks.average_precision.ground_truth import DetectionTable, GroundTruth, Matches
from sensitivity.tasks.average_precision.matching import (
    IOU_THRESHOLDS,
    SIZES,
    Bools,
    Floats,
    Ints,
    by_threshold,
    place_in_run,
)

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

    def average_recall(self, limit: int, *, iou: float | None = None) -> float:
        """Mean over IoU thresholds and categories; NaN if there is no category.

        Args:
            limit: Detections of a category in an image, one of ``recall``.
            iou: One IoU threshold; None for all.
        """
        recall = self.recall[limit]
        return _mean(recall if iou is None else recall[iou == IOU_THRESHOLDS])


@dataclass(frozen=True, slots=True)
class MetricReading:
    """How a metric is read off precision and recall.

    Attributes:
        size: The objects that count, one of ``matching.SIZES``.
        read: Makes a number of the curves at that size.
    """

    size: str
    read: Callable[[Curves], float]


class Counted:
    """True and false positives at one object size, counted once for curves over all images or without some of them.

    Args:
        matches: What became of the detections.
        size: One of ``matching.SIZES``.
        limits: Detections of a category in an image up to which recall is given.

    Source:
        ``COCOeval.accumulate`` of pycocotools 2.0.11: the same numbers to the last bit.
    """

    def __init__(self, matches: Matches, size: str, *, limits: tuple[int, ...]) -> None:
        ignored = by_threshold(matches.ignored, size)
        self._limits = limits
        self._seen = np.flatnonzero(~ignored.all(axis=0))
        self._categories = matches.categories[self._seen]
        self._counts = ~ignored[:, self._seen]
        self._thresholds, self._hits = np.nonzero(by_threshold(matches.true[self._seen], size))
        self._ranks = matches.ranks[self._seen[self._hits]]
        self._so_far = _so_far(self._counts)

    def curves(self, objects: Ints, left_out: Bools | None = None) -> Curves:
        """From the best score down.

        Args:
            objects: (K,) number of objects of this size in each category.
            left_out: (M,) whether each match is not to count; None counts all. Leave out whole images only.
        """
        categories = np.flatnonzero(objects)
        shape = len(IOU_THRESHOLDS), len(categories)
        if not len(categories):
            nothing = {limit: np.zeros(shape) for limit in self._limits}
            return Curves(categories, np.zeros((*shape, len(RECALL_LEVELS))), nothing)
        stays = objects[self._categories[self._hits]] > 0
        if left_out is not None:
            stays &= ~left_out[self._seen[self._hits]]
        thresholds, hits = self._thresholds[stays], self._hits[stays]
        columns = np.searchsorted(categories, self._categories[hits])
        first = np.searchsorted(self._categories, categories)
        detections = self._so_far[thresholds, hits + 1] - self._so_far[thresholds, first[columns]]
        if left_out is not None:
            gone = np.flatnonzero(left_out[self._seen])
            so_far = _so_far(self._counts[:, gone])
            detections -= so_far[thresholds, np.searchsorted(gone, hits)]
            detections += so_far[thresholds, np.searchsorted(gone, first)[columns]]
        # A cell is a threshold and a category; hits are ascending by cell, and by falling score within one.
        cells = thresholds * len(categories) + columns
        precision = (place_in_run(cells) + 1) / (detections + np.spacing(1))
        recalled = {
            limit: np.bincount(cells[self._ranks[stays] < limit], minlength=shape[0] * shape[1]).reshape(shape)
            for limit in self._limits
        }
        return Curves(
            categories=categories,
            precision=_at_recall_levels(precision, cells, objects[categories]).reshape(*shape, -1),
            recall={limit: number / objects[categories] for limit, number in recalled.items()},
        )


@dataclass(frozen=True)
class Matched:
    """Detections matched with the objects of some images.

    Attributes:
        truth: The objects.
        matches: What became of the detections in all the images.
        places: (M,) position of the image of each match.
        images: Positions of the images.
        limits: As for ``Counted``.
    """

    truth: GroundTruth
    matches: Matches
    places: Ints
    images: Sequence[int]
    limits: tuple[int, ...]

    def curves(self) -> dict[str, Curves]:
        """Curves at every object size."""
        objects = self.truth.count(self.images)
        return {size: Counted(self.matches, size, limits=self.limits).curves(objects[size]) for size in SIZES}

    def curves_without(self, groups: Sequence[Sequence[int]], size: str) -> Iterator[Curves]:
        """Curves at one object size over the images less each group of them; nothing is matched or counted again.

        Args:
            groups: Positions of the images that are left out, each time others.
            size: One of ``matching.SIZES``.
        """
        counted = Counted(self.matches, size, limits=self.limits)
        for group in map(list, groups):
            left_out = np.zeros(1 + max(self.images, default=0), bool)
            left_out[np.intersect1d(self.images, np.array(group, np.intp))] = True
            remaining = [image for image in self.images if not left_out[image]]
            yield counted.curves(self.truth.count(remaining)[size], left_out[self.places])

    def metrics(self, readings: Mapping[str, MetricReading]) -> dict[str, float]:
        """Every metric over the images, by name."""
        by_size = self.curves()
        return {metric: reading.read(by_size[reading.size]) for metric, reading in readings.items()}

    def metric_without(self, groups: Sequence[Sequence[int]], reading: MetricReading) -> list[float]:
        """One metric over the images less each group of them; see ``curves_without``."""
        return [reading.read(curves) for curves in self.curves_without(groups, reading.size)]


def matched(truth: GroundTruth, detections: DetectionTable, images: Sequence[int], limits: tuple[int, ...]) -> Matched:
    """Detections matched with the objects of some images.

    Args:
        truth: The objects.
        detections: Those on other images are left out.
        images: Positions of the images.
        limits: As for ``Counted``; the best detections of each category and image count, up to the last of these.

    Raises:
        PredictionError: If a category is unknown.
    """
    matches = truth.match(detections, images, limit=limits[-1])
    return Matched(truth, matches, detections.images[matches.detections], images, limits)


def _so_far(counts: Bools) -> Ints:
    """(10, N + 1) how many of the first detections count, for each of (10, N) flags and one more."""
    so_far = np.zeros((len(counts), counts.shape[1] + 1), np.intp)
    np.cumsum(counts, axis=1, out=so_far[:, 1:])
    return so_far


def _mean(values: Floats) -> float:
    return float(np.mean(values.ravel())) if values.size else float("nan")


def _at_recall_levels(precision: Floats, cells: Ints, objects: Ints) -> Floats:
    """Best precision from each recall level on, (10 * C, 101).

    Args:
        precision: (H,) at each hit; between hits it only falls, so that nowhere else it can be the best.
        cells: (H,) ascending, threshold * C + category.
        objects: (C,) objects of each category.
    """
    best = np.zeros((len(IOU_THRESHOLDS) * len(objects), len(RECALL_LEVELS)))
    if not len(cells):
        return best
    starts = np.flatnonzero(place_in_run(cells) == 0)
    hits, cells_hit = np.diff(starts, append=len(cells)), cells[starts]
    # Each cell ends with a precision of 0, for the levels that are never reached.
    place = np.repeat(np.arange(len(starts)), hits)
    padded = np.zeros(len(cells) + len(starts))
    padded[np.arange(len(cells)) + place] = precision
    numbers, places = np.unique(objects[cells_hit % len(objects)], return_inverse=True)
    needed = np.stack([_hits_needed(int(number)) for number in numbers])[places]
    reached = np.minimum(needed, hits[:, None])
    begin = (starts + np.arange(len(starts)))[:, None]
    best_until_next_level = np.maximum.reduceat(padded, (begin + reached).ravel()).reshape(reached.shape)
    best[cells_hit] = np.maximum.accumulate(best_until_next_level[:, ::-1], axis=1)[:, ::-1]
    return best


@functools.cache
def _hits_needed(objects: int) -> Ints:
    """How many hits come before each recall level is reached, (101,)."""
    return np.searchsorted(np.arange(1, objects + 1) / objects, RECALL_LEVELS)
