"""LVIS average precision of boxes and masks: many categories, not all of them annotated in every image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_tools

from sensitivity.errors import AnnotationError
from sensitivity.tasks.annotations import CocoAnnotations
from sensitivity.tasks.detection import check_results, choose_images, read_results, with_area
from sensitivity.tasks.instances import DetectionTask, check_iou_type

MAX_DETECTIONS = 300
LVIS_METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"),
    *("AR@300", "ARs@300", "ARm@300", "ARl@300"),
)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Record = Mapping[str, Any]

_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
_AREAS = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
_FREQUENCIES = ("r", "c", "f")


class Lvis(DetectionTask):
    """LVIS's thirteen numbers for boxes or masks; the ``lvis`` package is not needed.

    Takes LVIS v0.5 and v1 files. Images are looked for by ``file_name``, then by the last one or two parts of
    ``coco_url``. Arguments, predictions and errors: see ``DetectionTask``; an annotation file without LVIS's own keys
    is an AnnotationError.

    Example:
        >>> task = Lvis("coco", "lvis_v1_val.json", preprocess=resize, adapter=decode)  # doctest: +SKIP
    """

    metrics = LVIS_METRICS
    program = "LVIS"

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """The thirteen numbers over the images predicted, as fractions; see ``evaluate_lvis`` for what they average.

        Args:
            predictions: Position of the image to its prediction. No object found anywhere scores 0.

        Raises:
            TaskError: If there is no prediction, or no image at a position.
        """
        image_ids = self._image_ids(predictions)
        return _score(self.annotations, self._detections(predictions), self._iou_type, image_ids)

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

    Equal to the ``lvis`` package 0.5.3 to 12 digits.

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
    check_iou_type(iou_type)
    if not isinstance(annotations, CocoAnnotations):
        annotations = CocoAnnotations.load(annotations, with_masks=iou_type == "segm")
    _check_federated(annotations)
    chosen = choose_images(annotations, images)
    results = read_results(detections)
    check_results(results, annotations, iou_type)
    return _score(annotations, results, iou_type, chosen)


@dataclass(frozen=True)
class _Meeting:
    """One category in one image: D detections, best score first, meet G annotations.

    Attributes:
        ious: (D, G).
        scores: (D,).
        areas: (D,) of the detections, in pixels.
        truth_areas: (G,) of the annotations.
        exhaustive: Whether all objects of the category are annotated in the image.
    """

    ious: Floats
    scores: Floats
    areas: Floats
    truth_areas: Floats
    exhaustive: bool


@dataclass(frozen=True)
class _Curve:
    """One category at one object size: precision (10, 101) by IoU threshold and recall level; final recall (10,)."""

    precision: Floats
    recall: Floats


def _check_federated(annotations: CocoAnnotations) -> None:
    for image in annotations.images:
        missing = [key for key in ("neg_category_ids", "not_exhaustive_category_ids") if key not in image]
        if missing:
            raise AnnotationError(
                f"image {image['id']} lacks {missing}, so this is no LVIS file. Use CocoDetection for COCO's."
            )
    for category in annotations.categories:
        if category.get("frequency") not in _FREQUENCIES:
            raise AnnotationError(
                f"category {category['id']} has the frequency {category.get('frequency')!r}; expected 'r', 'c' or 'f'."
            )


def _score(
    annotations: CocoAnnotations, results: Sequence[Record], iou_type: str, image_ids: Sequence[int]
) -> dict[str, float]:
    meetings = _meetings(annotations, results, iou_type, image_ids)
    curves = {
        (category, size): curve
        for category, meetings_of_category in sorted(meetings.items())
        for size, area in _AREAS.items()
        if (curve := _curve(meetings_of_category, area)) is not None
    }
    frequency = {category["id"]: category["frequency"] for category in annotations.categories}
    scores = {}
    for metric in LVIS_METRICS:
        letter = metric.removesuffix("@300")[2:]
        size = letter if letter in _AREAS else ""
        chosen = [
            curve
            for (category, curve_size), curve in curves.items()
            if curve_size == size and (letter not in _FREQUENCIES or frequency[category] == letter)
        ]
        scores[metric] = _mean(chosen, metric)
    return scores


def _mean(curves: Sequence[_Curve], metric: str) -> float:
    if not curves:
        return float("nan")
    if metric.startswith("AR"):
        return float(np.mean([curve.recall for curve in curves]))
    thresholds = {"AP50": slice(0, 1), "AP75": slice(5, 6)}.get(metric, slice(None))
    return float(np.mean([curve.precision[thresholds] for curve in curves]))


def _meetings(
    annotations: CocoAnnotations, results: Sequence[Record], iou_type: str, image_ids: Sequence[int]
) -> dict[int, list[_Meeting]]:
    """All meetings of each category, images in ascending order of their ids, as the lvis package breaks ties."""
    images = {image["id"]: image for image in annotations.images}
    by_image = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    meetings: dict[int, list[_Meeting]] = defaultdict(list)
    for image_id in sorted(set(image_ids)):
        best = sorted(by_image[image_id], key=lambda result: -result["score"])[:MAX_DETECTIONS]
        found = _by_category([with_area(result, iou_type, annotations.sizes[image_id]) for result in best])
        truth = _by_category(annotations.by_image[image_id])
        told = set(truth) | (set(found) & set(images[image_id]["neg_category_ids"]))
        for category in told:
            exhaustive = category not in images[image_id]["not_exhaustive_category_ids"]
            pair = found[category], truth[category]
            meetings[category].append(_meet(*pair, annotations, iou_type=iou_type, exhaustive=exhaustive))
    return meetings


def _by_category(objects: Sequence[Record]) -> dict[int, list[Record]]:
    """Objects without area are left out, as in the lvis package."""
    found = defaultdict(list)
    for one in objects:
        if one["area"] > 0:
            found[one["category_id"]].append(one)
    return found


def _meet(
    found: Sequence[Record], truth: Sequence[Record], annotations: CocoAnnotations, *, iou_type: str, exhaustive: bool
) -> _Meeting:
    if iou_type == "segm":
        shapes = [one["segmentation"] for one in found], [annotations.masks[one["id"]] for one in truth]
    else:
        shapes = [one["bbox"] for one in found], [one["bbox"] for one in truth]
    ious = mask_tools.iou(*shapes, [0] * len(truth)) if found and truth else np.zeros((len(found), len(truth)))
    return _Meeting(
        ious=ious,
        scores=np.array([one["score"] for one in found], np.float64),
        areas=np.array([one["area"] for one in found], np.float64),
        truth_areas=np.array([one["area"] for one in truth], np.float64),
        exhaustive=exhaustive,
    )


def _match(ious: Floats, ignored: Bools) -> tuple[Bools, Bools]:
    """Give every detection, best first, the free annotation it overlaps most; one that counts before an ignored one.

    Args:
        ious: (D, G).
        ignored: (G,) annotations that do not count.

    Returns:
        Whether each detection is matched, (10, D) by IoU threshold, and whether it is matched to an ignored one.
    """
    matched = np.zeros((len(_IOU_THRESHOLDS), len(ious)), bool)
    to_ignored = np.zeros_like(matched)
    free = np.ones((len(_IOU_THRESHOLDS), len(ignored)), bool)
    thresholds = np.minimum(_IOU_THRESHOLDS, 1 - 1e-10)[:, None]
    overlapping = np.flatnonzero(ious.max(axis=1, initial=0.0) >= thresholds[0, 0])
    for detection in overlapping:
        possible = free & (ious[detection] >= thresholds)
        counting = possible & ~ignored
        choice = np.where(counting.any(axis=1, keepdims=True), counting, possible)
        overlaps = np.where(choice, ious[detection], -1.0)
        best = len(ignored) - 1 - overlaps[:, ::-1].argmax(axis=1)  # of equal overlaps the last one, as in COCO
        hit = np.flatnonzero(choice.any(axis=1))
        free[hit, best[hit]] = False
        matched[hit, detection] = True
        to_ignored[hit, detection] = ignored[best[hit]]
    return matched, to_ignored


def _curve(meetings: Sequence[_Meeting], area: tuple[float, float]) -> _Curve | None:
    """Precision and recall of one category; None if it has no ground truth of this size."""
    smallest, largest = area
    objects, true, false = 0, [], []
    for meeting in meetings:
        ignored = (meeting.truth_areas < smallest) | (meeting.truth_areas > largest)
        matched, to_ignored = _match(meeting.ious, ignored)
        outside = (meeting.areas < smallest) | (meeting.areas > largest)
        excused = outside if meeting.exhaustive else np.ones_like(outside)
        objects += int(np.count_nonzero(~ignored))
        true.append(matched & ~to_ignored)
        false.append(~matched & ~excused)
    if objects == 0:
        return None
    order = np.argsort(-np.concatenate([meeting.scores for meeting in meetings]), kind="stable")
    true_sum = np.cumsum(np.concatenate(true, axis=1)[:, order], axis=1, dtype=np.float64)
    false_sum = np.cumsum(np.concatenate(false, axis=1)[:, order], axis=1, dtype=np.float64)
    return _interpolate(true_sum, false_sum, objects)


def _interpolate(true_sum: Floats, false_sum: Floats, objects: int) -> _Curve:
    recall = true_sum / objects
    precision = true_sum / (true_sum + false_sum + np.spacing(1))
    highest_after = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    beyond = np.zeros((len(recall), 1))  # a recall level that is never reached has the precision 0
    padded = np.concatenate([highest_after, beyond], axis=1)
    levels = [np.searchsorted(row, _RECALL_LEVELS, side="left") for row in recall]
    return _Curve(
        precision=np.stack([row[level] for row, level in zip(padded, levels, strict=True)]),
        recall=np.concatenate([beyond, recall], axis=1)[:, -1],
    )
