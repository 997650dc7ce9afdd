"""COCO's twelve numbers, with the ground truth prepared once for any number of models to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools

from sensitivity.errors import PredictionError
from sensitivity.tasks.annotations import CocoAnnotations
from sensitivity.tasks.curves import Curves, Matches, curves
from sensitivity.tasks.matching import (
    SIZES,
    Bools,
    Floats,
    Ints,
    Objects,
    by_threshold,
    lanes_of_areas,
    match,
    place_in_run,
)

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

_LIMITS = (1, 10, 100)
_SIZE_OF_LETTER = {size[0]: size for size in SIZES if size != "all"}


@dataclass(frozen=True)
class Detections:
    """N detections on any number of images, in any order.

    Attributes:
        images: (N,) position of the image in ``CocoAnnotations.images``.
        categories: (N,) category ids.
        scores: (N,) float64, finite.
        shapes: (N, 4) float64 ``x, y, width, height`` in pixels, finite; or a list of N compressed RLE.
    """

    images: Ints
    categories: Ints
    scores: Floats
    shapes: Any


class CocoEvaluator:
    """COCO's ground truth, ready to score many models.

    All twelve numbers equal those of pycocotools 2.0.11 to the last bit, as long as the area of every box fits into a
    float64.

    Args:
        annotations: The ground truth.
        iou_type: ``bbox`` or ``segm``: whether boxes or masks are compared.
        use_categories: Whether category and detection must agree; False scores proposals.
    """

    def __init__(self, annotations: CocoAnnotations, iou_type: str = "bbox", *, use_categories: bool = True) -> None:
        self._use_categories = use_categories
        self._category_ids = np.array(annotations.category_ids, np.intp)
        image_ids = [image["id"] for image in annotations.images]
        # pycocotools takes the images by ascending id, which decides between equal scores
        self._place = np.argsort(np.argsort(image_ids))
        place = dict(zip(image_ids, self._place.tolist(), strict=True))
        truth = sorted(annotations.annotations, key=lambda one: (place[one["image_id"]], one["category_id"]))
        self._images = np.array([place[one["image_id"]] for one in truth], np.intp)
        self._groups = self._group(np.array([one["category_id"] for one in truth], np.intp))
        lanes = lanes_of_areas(np.array([one["area"] for one in truth], np.float64))
        crowd = np.array([bool(one["iscrowd"]) for one in truth], bool)
        self._truth = Objects(
            queues=self._queue(self._images, self._groups),
            crowd=crowd,
            lanes=np.where(crowd, np.uint64(0), lanes),
            shapes=[annotations.masks[one["id"]] for one in truth]
            if iou_type == "segm"
            else np.array([one["bbox"] for one in truth], np.float64).reshape(-1, 4),
        )

    def evaluate(self, found: Detections, *, images: Sequence[int] | None = None) -> dict[str, float]:
        """The twelve numbers, as fractions; see ``evaluate_coco`` for what they average.

        Args:
            found: Detections; those on images that are not scored are left out.
            images: Positions of the images to score; None for all.

        Returns:
            A number for each of ``COCO_METRICS``; NaN where no category has ground truth (pycocotools: -1).

        Raises:
            PredictionError: If a category is unknown.
        """
        matches = self.match(found, images=images)
        truth = self._scored(images)[self._images]
        groups, lanes = self._groups[truth], self._truth.lanes[truth]
        by_size = {}
        for size in SIZES:
            counting = by_threshold(lanes, size)[0]  # an object counts at all thresholds or at none
            objects = np.bincount(groups[counting], minlength=max(1, len(self._category_ids)))
            by_size[size] = curves(matches, objects, size, limits=_LIMITS)
        return {metric: _mean(metric, by_size) for metric in COCO_METRICS}

    def match(self, found: Detections, *, images: Sequence[int] | None = None) -> Matches:
        """What ``evaluate`` counts: the fate of the best 100 detections of each category in each image scored.

        Args:
            found: As in ``evaluate``.
            images: As in ``evaluate``.

        Returns:
            Its ``categories`` are indices into ``CocoAnnotations.category_ids``, or 0 if categories are not used.

        Raises:
            PredictionError: If a category is unknown.
        """
        self._check_categories(found.categories)
        places, groups = self._place[found.images], self._group(found.categories)
        order = np.lexsort((found.categories, -found.scores, groups, places))
        order = order[self._scored(images)[places[order]]]
        queues = self._queue(places[order], groups[order])
        ranks = place_in_run(queues)
        kept = np.flatnonzero(ranks < _LIMITS[-1])
        order, queues, ranks = order[kept], queues[kept], ranks[kept]
        shapes, areas = _chosen(found.shapes, order)
        true, ignored = match(self._truth, queues, shapes, areas)
        counted = np.lexsort((-found.scores[order], groups[order]))
        return Matches(order[counted], groups[order][counted], ranks[counted], true[counted], ignored[counted])

    def _scored(self, images: Sequence[int] | None) -> Bools:
        """(I,) whether each image is scored, images by ascending id."""
        scored = np.full(len(self._place), images is None)
        if images is not None:
            scored[self._place[np.asarray(images, np.intp)]] = True
        return scored

    def _group(self, category_ids: Ints) -> Ints:
        """What must agree: the index of the category, or nothing."""
        if self._use_categories:
            return np.searchsorted(self._category_ids, category_ids)
        return np.zeros(len(category_ids), np.intp)

    def _queue(self, places: Ints, groups: Ints) -> Ints:
        return places * len(self._category_ids) + groups

    def _check_categories(self, category_ids: Ints) -> None:
        unknown = np.setdiff1d(category_ids, self._category_ids)
        if len(unknown):
            raise PredictionError(
                f"detections have the category ids {unknown[:5].tolist()}, which the annotation file does not know; "
                f"it has {len(self._category_ids)}: {self._category_ids[:5].tolist()} and so on."
            )


def _chosen(shapes: Any, order: Ints) -> tuple[Any, Floats]:
    """Some of the shapes, and their areas in pixels."""
    if isinstance(shapes, list):
        masks = [shapes[one] for one in order]
        return masks, np.asarray(mask_tools.area(masks), np.float64)
    boxes = shapes[order]
    with np.errstate(over="ignore"):
        return boxes, boxes[:, 2] * boxes[:, 3]


def _mean(metric: str, by_size: dict[str, Curves]) -> float:
    kind, which = metric[:2], metric[2:]
    chosen = by_size[_SIZE_OF_LETTER.get(which, "all")]
    if kind == "AR":
        values = chosen.recall[int(which) if which.isdigit() else _LIMITS[-1]]
    else:
        thresholds = {"50": slice(0, 1), "75": slice(5, 6)}.get(which, slice(None))
        # levels before categories: the order decides the last bit of a mean
        values = chosen.precision[thresholds].transpose(0, 2, 1)
    return float(np.mean(values.ravel())) if values.size else float("nan")
