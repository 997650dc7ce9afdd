"""LVIS average precision of boxes and masks: many categories, not all of them annotated in every image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.errors import AnnotationError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.annotations.segmentations import whole_number
from sensitivity.tasks.average_precision.curves import Curves, Matched, MetricReading
from sensitivity.tasks.average_precision.detections import Prediction
from sensitivity.tasks.average_precision.ground_truth import DetectionTable, GroundTruth
from sensitivity.tasks.average_precision.matching import ALL_CRITERIA, Bools, Ints, place_in_run
from sensitivity.tasks.coco import as_detections, choose_images, load_annotations, read_results
from sensitivity.tasks.datasets import predicted_positions
from sensitivity.tasks.detector import DetectionTask

MAX_DETECTIONS = 300

_FREQUENCIES = ("r", "c", "f")
_FREQUENCY_OF = {f"AP{frequency}": frequency for frequency in _FREQUENCIES}
_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
_READINGS: dict[str, tuple[str, Callable[[Curves, Mapping[str, Bools]], float]]] = {
    "AP": ("all", lambda curves, _: curves.average_precision()),
    "AP50": ("all", lambda curves, _: curves.average_precision(iou=0.5)),
    "AP75": ("all", lambda curves, _: curves.average_precision(iou=0.75)),
    "APs": ("small", lambda curves, _: curves.average_precision()),
    "APm": ("medium", lambda curves, _: curves.average_precision()),
    "APl": ("large", lambda curves, _: curves.average_precision()),
    "APr": ("all", lambda curves, among: curves.average_precision(among=among["r"])),
    "APc": ("all", lambda curves, among: curves.average_precision(among=among["c"])),
    "APf": ("all", lambda curves, among: curves.average_precision(among=among["f"])),
    "AR@300": ("all", lambda curves, _: curves.average_recall(MAX_DETECTIONS)),
    "ARs@300": ("small", lambda curves, _: curves.average_recall(MAX_DETECTIONS)),
    "ARm@300": ("medium", lambda curves, _: curves.average_recall(MAX_DETECTIONS)),
    "ARl@300": ("large", lambda curves, _: curves.average_recall(MAX_DETECTIONS)),
}
LVIS_METRICS = tuple(_READINGS)


class Lvis(DetectionTask):
    """LVIS's thirteen numbers for boxes or masks; see ``evaluate_lvis`` for what they average.

    The ``lvis`` package is not needed.

    Takes LVIS v0.5 and v1 files. Images are looked for by ``file_name``, then by the last one or two parts of
    ``coco_url``. Arguments, predictions and errors: see ``DetectionTask``; an annotation file without LVIS's own keys
    is an AnnotationError.

    Example:
        >>> task = Lvis("coco", "lvis_v1_val.json", preprocess=resize, adapter=decode)  # doctest: +SKIP
    """

    metrics = LVIS_METRICS
    program = "LVIS"

    def _readings(self) -> Mapping[str, MetricReading]:
        return self._truth.readings()

    def _matched(self, predictions: Mapping[int, Prediction]) -> Matched:
        return self._truth.matched(self._detections(predictions), list(predictions))

    @checked(TaskError)
    def images_by_kind(self, predictions: Mapping[int, Any]) -> list[int]:
        """How many of the images predicted show an object of each category that the metric averages over.

        Categories without an object in any image of the task are left out.
        """
        images, categories = self._shown
        known = np.unique(categories)
        predicted = categories[np.isin(images, predicted_positions(predictions, len(self)))]
        counts: list[int] = np.bincount(np.searchsorted(known, predicted), minlength=len(known)).tolist()
        return counts

    @cached_property
    def _shown(self) -> tuple[Ints, Ints]:
        """(P,) positions of images, and ids of averaged categories that they show an object of, each pair once."""
        frequency = _FREQUENCY_OF.get(self.metric)
        averaged = {
            category["id"]
            for category in self.annotations.categories
            if frequency is None or category["frequency"] == frequency
        }
        position = {image["id"]: number for number, image in enumerate(self.annotations.images)}
        pairs = {
            (position[known["image_id"]], known["category_id"])
            for known in self.annotations.annotations
            if known["category_id"] in averaged and known["area"] > 0
        }
        images, categories = np.array(sorted(pairs), np.intp).reshape(-1, 2).T
        return images, categories

    @cached_property
    def _truth(self) -> _FederatedTruth:
        return _FederatedTruth(self.annotations, self._iou_type)

    def _check_annotations(self) -> None:
        _check_federated(self.annotations)


def evaluate_lvis(
    annotations: CocoAnnotations | str | Path | Mapping[str, Any],
    detections: str | Path | Sequence[Mapping[str, Any]],
    iou_type: str = "bbox",
    *,
    images: Sequence[int] | None = None,
) -> dict[str, float]:
    """LVIS's thirteen numbers for a list of results, without images or a model.

    The best 300 detections of an image count. A detection of a category that the image is neither annotated with nor
    known to be free of is left out; one that matches nothing is no mistake where the category is not annotated
    exhaustively. AP is the precision averaged over 101 recall levels, categories and the IoU thresholds .50:.05:.95;
    APr, APc, APf are over the categories that are rare, common and frequent in the training set; APs, APm, APl and the
    AR are by size as in ``evaluate_coco``. A category without ground truth in the images scored is left out of the
    mean; where that leaves none, the metric is NaN (the ``lvis`` package: -1). The area of a detected mask is its
    pixels (the package takes the area of the box where a result has both).

    Equal to the ``lvis`` package 0.5.3 to the last bit.

    Args:
        annotations: LVIS file, or what it holds.
        detections: Results as in COCO; a list or a JSON file of one. It may be empty.
        iou_type: ``bbox`` or ``segm``.
        images: Ids of the images to score; None for all of the file. Detections on others are left out.

    Raises:
        AnnotationError: If the annotations are not sound, or are COCO's and not LVIS's.
        PredictionError: If a result lacks a key, is not finite, or names an unknown image or category.
        TaskError: If ``iou_type`` is unknown, or ``images`` is empty or has an id that the file has not.
    """
    annotations = load_annotations(annotations, iou_type)
    _check_federated(annotations)
    chosen = choose_images(annotations, images)
    flat = as_detections(read_results(detections), annotations, iou_type)
    truth = _FederatedTruth(annotations, iou_type)
    return truth.matched(flat, chosen).metrics(truth.readings())


class _FederatedTruth:
    """The objects, and what is known of the categories that an image is not annotated with."""

    def __init__(self, annotations: CocoAnnotations, iou_type: str) -> None:
        # as in the lvis package: objects without area are left out, and none is a crowd
        objects = tuple({**known, "iscrowd": 0} for known in annotations.annotations if known["area"] > 0)
        self.objects = GroundTruth(replace(annotations, annotations=objects), iou_type)
        frequency_of = {category["id"]: category["frequency"] for category in annotations.categories}
        frequencies = np.array([frequency_of[category] for category in annotations.category_ids], str)
        self._among = {frequency: frequencies == frequency for frequency in _FREQUENCIES}
        self._category_ids = np.array(annotations.category_ids, np.intp)
        self._absent = self._listed(annotations, "neg_category_ids")
        self._incomplete = self._listed(annotations, "not_exhaustive_category_ids")

    def matched(self, detections: DetectionTable, images: Sequence[int]) -> Matched:
        """What becomes of the detections that count."""
        judged = self._judged(detections)
        matches = self.objects.match(judged, images, limit=MAX_DETECTIONS)
        excused = np.isin(self._keys(judged), self._incomplete)[matches.detections]
        matches = replace(
            matches, ignored=matches.ignored | np.where(excused, ALL_CRITERIA & ~matches.true, np.uint64(0))
        )
        return Matched(self.objects, matches, judged.images[matches.detections], images, (MAX_DETECTIONS,))

    def readings(self) -> dict[str, MetricReading]:
        """How each metric is read off the curves; the frequency of each category is this file's."""

        def of_this_file(read: Callable[[Curves, Mapping[str, Bools]], float]) -> Callable[[Curves], float]:
            return lambda curves: read(curves, self._among)

        return {metric: MetricReading(size, of_this_file(read)) for metric, (size, read) in _READINGS.items()}

    def _judged(self, detections: DetectionTable) -> DetectionTable:
        """The best 300 of each image, less those without area or on a category that nobody looked for."""
        order = np.lexsort((-detections.scores, detections.images))
        best = order[place_in_run(detections.images[order]) < MAX_DETECTIONS]
        looked_for: Bools = self.objects.has_objects(detections) | np.isin(self._keys(detections), self._absent)
        return detections.take(best[looked_for[best] & (detections.areas()[best] > 0)])

    def _keys(self, detections: DetectionTable) -> Ints:
        return detections.images * len(self._category_ids) + np.searchsorted(self._category_ids, detections.categories)

    def _listed(self, annotations: CocoAnnotations, key: str) -> Ints:
        place = {category: number for number, category in enumerate(annotations.category_ids)}
        listed = [
            position * len(place) + place[category]
            for position, image in enumerate(annotations.images)
            for category in image[key]
        ]
        return np.array(listed, np.intp)


def _check_federated(annotations: CocoAnnotations) -> None:
    known = set(annotations.category_ids)
    for image in annotations.images:
        missing = [key for key in _LISTS if key not in image]
        if missing:
            raise AnnotationError(
                f"image {image['id']} lacks {missing}, so this is no LVIS file. Use CocoDetection for COCO's."
            )
        for key in _LISTS:
            if not isinstance(image[key], list | tuple) or not all(whole_number(id_) in known for id_ in image[key]):
                raise AnnotationError(
                    f"image {image['id']} has the {key} {image[key]!r:.80}; expected a list of the file's category ids."
                )
    for category in annotations.categories:
        if category.get("frequency") not in _FREQUENCIES:
            raise AnnotationError(
                f"category {category['id']} has the frequency {category.get('frequency')!r}; expected 'r', 'c' or 'f'."
            )
