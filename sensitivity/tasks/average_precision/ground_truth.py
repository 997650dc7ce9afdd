"""Annotated objects, prepared once for the detections of any number of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools

from sensitivity.errors import PredictionError
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.annotations.checks import Record
from sensitivity.tasks.average_precision.matching import (
    SIZES,
    Bools,
    Floats,
    Ints,
    Objects,
    Words,
    by_threshold,
    criteria_of_areas,
    match,
    place_in_run,
)
from sensitivity.tasks.average_precision.poses import AnnotatedPoses, Poses


@dataclass(frozen=True)
class DetectionTable:
    """N detections on any number of images, in any order.

    Attributes:
        images: (N,) position of the image in ``CocoAnnotations.images``.
        categories: (N,) category ids.
        scores: (N,) float64, finite.
        shapes: (N, 4) float64 ``x, y, width, height`` in pixels, finite; or a list of N compressed RLE; or ``Poses``.
    """

    images: Ints
    categories: Ints
    scores: Floats
    shapes: Any

    def take(self, chosen: Ints) -> DetectionTable:
        """Those at (M,) positions, in this order."""
        shapes = [self.shapes[index] for index in chosen] if isinstance(self.shapes, list) else self.shapes[chosen]
        return DetectionTable(self.images[chosen], self.categories[chosen], self.scores[chosen], shapes)

    def areas(self) -> Floats:
        """(N,) area of each box, mask or pose in pixels."""
        if isinstance(self.shapes, Poses):
            return self.shapes.areas()
        if isinstance(self.shapes, list):
            # one by one: pycocotools 2.0.11 refuses a list of more than 255 with numpy 2
            return np.array([mask_tools.area(mask) for mask in self.shapes], np.float64)
        with np.errstate(over="ignore"):
            areas: Floats = self.shapes[:, 2] * self.shapes[:, 3]
        return areas


@dataclass(frozen=True)
class Matches:
    """What became of M detections, in the order in which they are counted: by category, then best score first.

    A criterion is an IoU threshold and an object size, see ``matching``. What is neither true nor ignored in a
    criterion is a false positive there. ``by_threshold(matches.true, "all")[0]`` are the true positives at IoU 0.5 of
    objects of any size; with ``DetectionTable.images[matches.detections]`` they can be summed up image by image.

    Attributes:
        detections: (M,) index into the detections given; those that are missing are not counted at all.
        categories: (M,) index into ``CocoAnnotations.category_ids``, ascending; all 0 if categories are not used.
        ranks: (M,) 0 for the best detection of its category in its image, and so on.
        true: (M,) words: criteria in which it found an object.
        ignored: (M,) words: criteria in which it does not count, since it found a crowd region or an object of another
            size, or found nothing and is of another size itself.
    """

    detections: Ints
    categories: Ints
    ranks: Ints
    true: Words
    ignored: Words


class GroundTruth:
    """The annotated objects of all images.

    Args:
        annotations: The objects; crowd regions are ignored.
        iou_type: ``bbox``, ``segm`` or ``keypoints``: whether boxes, masks or poses are compared.
        use_categories: Whether category and detection must agree; False scores proposals.
        sigmas: (K,) of each keypoint, for poses.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        iou_type: str,
        *,
        use_categories: bool = True,
        sigmas: Floats | None = None,
    ) -> None:
        self._use_categories = use_categories
        self._category_ids = np.array(annotations.category_ids, np.intp)
        image_ids = [image["id"] for image in annotations.images]
        # pycocotools takes the images by ascending id, which decides between equal scores
        self._places = np.argsort(np.argsort(image_ids))
        place = dict(zip(image_ids, self._places.tolist(), strict=True))
        truth = sorted(annotations.annotations, key=lambda known: (place[known["image_id"]], known["category_id"]))
        self._object_places = np.array([place[known["image_id"]] for known in truth], np.intp)
        categories = self._category_index(np.array([known["category_id"] for known in truth], np.intp))
        self._object_groups = self._groups(categories)
        criteria = criteria_of_areas(np.array([known["area"] for known in truth], np.float64))
        crowd = np.array([bool(known["iscrowd"]) for known in truth], bool)
        self._objects = Objects(
            queues=self._queues(self._object_places, self._object_groups),
            crowd=crowd,
            criteria=np.where(crowd | _without_keypoints(truth, iou_type), np.uint64(0), criteria),
            shapes=_shapes(truth, annotations, iou_type, sigmas),
        )
        # an object counts at all thresholds or at none
        self._counts = {size: by_threshold(self._objects.criteria, size)[0] for size in SIZES}

    def count(self, images: Sequence[int]) -> dict[str, Ints]:
        """Number of objects that count: size -> (K,) by category, or all in the first if categories are not used.

        Args:
            images: Positions of the images to count in.
        """
        scored, length = self._scored(images)[self._object_places], len(self._category_ids)
        return {
            size: np.bincount(self._object_groups[counts & scored], minlength=length)
            for size, counts in self._counts.items()
        }

    def match(self, detections: DetectionTable, images: Sequence[int], *, limit: int) -> Matches:
        """What becomes of every detection.

        Args:
            detections: DetectionTable; those on images that are not scored are left out.
            images: Positions of the images to score.
            limit: So many detections of a category in an image count, the best ones.

        Raises:
            PredictionError: If a category is unknown.
        """
        categories = self._category_index(detections.categories)
        places, groups = self._places[detections.images], self._groups(categories)
        queues = self._queues(places, groups)
        levels = np.unique(-detections.scores, return_inverse=True)[1]  # 0 is the best score; equal scores are equal
        # equal scores of a queue: by category, where those are not used, then as given
        order = np.argsort((queues * len(levels) + levels) * len(self._category_ids) + categories, kind="stable")
        order = order[self._scored(images)[places[order]]]
        ranks = place_in_run(queues[order])
        best = np.flatnonzero(ranks < limit)
        order, ranks = order[best], ranks[best]
        ordered = detections.take(order)
        true, ignored = match(self._objects, queues[order], ordered.shapes, ordered.areas())
        counted = np.argsort(groups[order] * len(levels) + levels[order], kind="stable")
        order = order[counted]
        return Matches(order, groups[order], ranks[counted], true[counted], ignored[counted])

    def has_objects(self, detections: DetectionTable) -> Bools:
        """(N,) whether the image of each detection has objects of its category."""
        queues = self._queues(
            self._places[detections.images], self._groups(self._category_index(detections.categories))
        )
        return np.isin(queues, self._objects.queues)

    def _scored(self, images: Sequence[int]) -> Bools:
        """(I,) whether each image is scored, images by ascending id."""
        scored = np.zeros(len(self._places), bool)
        scored[self._places[np.asarray(images, np.intp)]] = True
        return scored

    def _category_index(self, category_ids: Ints) -> Ints:
        unknown = np.setdiff1d(category_ids, self._category_ids)
        if len(unknown):
            raise PredictionError(
                f"detections have the category ids {unknown[:5].tolist()}, which the annotation file does not know; "
                f"it has {len(self._category_ids)}: {self._category_ids[:5].tolist()} and so on."
            )
        return np.searchsorted(self._category_ids, category_ids)

    def _groups(self, categories: Ints) -> Ints:
        """What is counted together: a category, or everything."""
        return categories if self._use_categories else np.zeros_like(categories)

    def _queues(self, places: Ints, groups: Ints) -> Ints:
        return places * len(self._category_ids) + groups


def _without_keypoints(truth: Sequence[Record], iou_type: str) -> Bools:
    """(G,) whether an object has no pose to be found; all have a box and a mask."""
    if iou_type != "keypoints":
        return np.zeros(len(truth), bool)
    return np.array([not known.get("num_keypoints", any(known["keypoints"][2::3])) for known in truth], bool)


def _shapes(truth: Sequence[Record], annotations: CocoAnnotations, iou_type: str, sigmas: Floats | None) -> Any:
    """What detections are compared with, in the form that ``matching.Objects`` has it."""
    if iou_type == "segm":
        return [annotations.masks[known["id"]] for known in truth]
    if sigmas is not None:
        return AnnotatedPoses.of(truth, sigmas)
    return np.array([known["bbox"] for known in truth], np.float64).reshape(-1, 4)
