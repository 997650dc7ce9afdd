"""COCO average precision of boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.errors import PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations, read_annotation_file
from sensitivity.tasks.annotations.segmentations import as_rle, finite_number, finite_numbers, first_fault, whole_number
from sensitivity.tasks.average_precision.condensed import condensed_boxes
from sensitivity.tasks.average_precision.curves import Matched, MetricReading, matched
from sensitivity.tasks.average_precision.detections import Prediction
from sensitivity.tasks.average_precision.ground_truth import DetectionTable, GroundTruth
from sensitivity.tasks.average_precision.matching import Words
from sensitivity.tasks.detector import DetectionTask, check_iou_type

_LIMITS = (1, 10, 100)
_READINGS = {
    "AP": MetricReading("all", lambda curves: curves.average_precision()),
    "AP50": MetricReading("all", lambda curves: curves.average_precision(iou=0.5)),
    "AP75": MetricReading("all", lambda curves: curves.average_precision(iou=0.75)),
    "APs": MetricReading("small", lambda curves: curves.average_precision()),
    "APm": MetricReading("medium", lambda curves: curves.average_precision()),
    "APl": MetricReading("large", lambda curves: curves.average_precision()),
    "AR1": MetricReading("all", lambda curves: curves.average_recall(1)),
    "AR10": MetricReading("all", lambda curves: curves.average_recall(10)),
    "AR100": MetricReading("all", lambda curves: curves.average_recall(100)),
    "ARs": MetricReading("small", lambda curves: curves.average_recall(100)),
    "ARm": MetricReading("medium", lambda curves: curves.average_recall(100)),
    "ARl": MetricReading("large", lambda curves: curves.average_recall(100)),
}
COCO_METRICS = tuple(_READINGS)


class CocoDetection(DetectionTask):
    """COCO's twelve numbers for boxes or masks; see ``evaluate_coco`` for what they average.

    Equal to pycocotools 2.0.11 to the last bit. For any other file of images and objects too, as long as it is in
    COCO's format. Arguments, predictions and errors: see ``DetectionTask``.

    Example:
        >>> task = CocoDetection("val2017", "instances_val2017.json", preprocess=Resize(height=320, width=320),
        ...                      adapter=decode)  # doctest: +SKIP
    """

    metrics = COCO_METRICS
    program = "COCO"

    def _readings(self) -> Mapping[str, MetricReading]:
        return _READINGS

    def _matched(self, predictions: Mapping[int, Prediction]) -> Matched:
        return matched(self._truth, self._detections(predictions), list(predictions), _LIMITS)

    @checked(TaskError)
    def condensed(self, predictions: Mapping[int, Any]) -> dict[int, Any]:
        """Predictions that are scored the same, to the last bit, and take less room; see ``Condenses``.

        Detections of categories that have no object in any image are left out, since no mean is taken over these.
        Boxes that find no object are exchanged for others of the same class of size, which are far away from every
        object. Masks stay as they are, and so does all that a subclass with a score of its own is given.

        Args:
            predictions: Position of the image to its prediction.
        """
        own_scores = type(self).score, type(self).scores_without
        if (
            not predictions
            or self._iou_type != "bbox"
            or own_scores != (CocoDetection.score, CocoDetection.scores_without)
        ):
            return dict(predictions)
        counted = {image: self._of_annotated_categories(prediction) for image, prediction in predictions.items()}
        outcome = self._outcome(counted)
        boxes = condensed_boxes(np.concatenate([prediction["boxes"] for prediction in counted.values()]), *outcome)
        ends = np.cumsum([len(prediction["boxes"]) for prediction in counted.values()])
        parts = zip(counted.items(), np.split(boxes, ends[:-1]), strict=True)
        condensed = {image: {**prediction, "boxes": part.copy()} for (image, prediction), part in parts}
        return condensed if all(map(np.array_equal, outcome, self._outcome(condensed))) else counted

    def _of_annotated_categories(self, prediction: Any) -> Any:
        """The detections of a prediction whose category has an object in some image."""
        counted = np.isin(prediction["labels"], self._annotated_categories)
        return {part: values[counted] for part, values in prediction.items()}

    def _outcome(self, predictions: Mapping[int, Any]) -> tuple[Words, Words]:
        """For each detection the criteria in which it found an object, and in which it does not count."""
        detections = self._detections(predictions)
        matches = self._truth.match(detections, list(predictions), limit=_LIMITS[-1])
        true, ignored = (np.zeros(len(detections.scores), np.uint64) for _ in range(2))
        true[matches.detections], ignored[matches.detections] = matches.true, matches.ignored
        return true, ignored

    @cached_property
    def _annotated_categories(self) -> list[int]:
        """Ids of the categories that have an object in some image."""
        return sorted({known["category_id"] for known in self.annotations.annotations})

    @cached_property
    def _truth(self) -> GroundTruth:
        return GroundTruth(self.annotations, self._iou_type)


def evaluate_coco(
    annotations: CocoAnnotations | str | Path | Mapping[str, Any],
    detections: str | Path | Sequence[Mapping[str, Any]],
    iou_type: str = "bbox",
    *,
    images: Sequence[int] | None = None,
    use_categories: bool = True,
) -> dict[str, float]:
    """COCO's twelve numbers for a list of results, without images or a model.

    AP is the precision averaged over 101 recall levels, then over the categories that have ground truth in the images
    scored, then over the IoU thresholds .50:.05:.95 (AP50, AP75: that one alone); APs, APm, APl count objects of up to
    32^2, 32^2..96^2 and from 96^2 pixels (bounds belong to both sides). AR1, AR10, AR100 are the recall with that many
    detections a category and image, averaged over categories and thresholds; ARs, ARm, ARl are AR100 by size. Crowd
    regions are neither found nor missed. A category without ground truth is left out of the mean; where that leaves
    none, the metric is NaN (pycocotools: -1). The area of a detected mask is its pixels (pycocotools takes the area of
    the box where a result has both).

    Equal to pycocotools 2.0.11 to the last bit, as long as the area of every box fits into a float64.

    Args:
        annotations: COCO file, or what it holds. Annotation ids may start at 0.
        detections: COCO results: ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, width, height) or
            ``segmentation`` (RLE); a list or a JSON file of one. It may be empty.
        iou_type: ``bbox`` or ``segm``.
        images: Ids of the images to score; None for all of the file. Detections on others are left out.
        use_categories: Whether category and detection must agree; False scores proposals.

    Raises:
        AnnotationError: If the annotations are not sound.
        PredictionError: If a result lacks a key, is not finite, or names an unknown image or category.
        TaskError: If ``iou_type`` is unknown, or ``images`` is empty or has an id that the file has not.
    """
    annotations = load_annotations(annotations, iou_type)
    chosen = choose_images(annotations, images)
    flat = as_detections(read_results(detections), annotations, iou_type)
    return coco_metrics(GroundTruth(annotations, iou_type, use_categories=use_categories), flat, chosen)


def coco_metrics(truth: GroundTruth, detections: DetectionTable, images: Sequence[int]) -> dict[str, float]:
    """COCO's twelve numbers with the ground truth prepared once; see ``evaluate_coco`` for what they average.

    Args:
        truth: The objects.
        detections: Those on images that are not scored are left out.
        images: Positions of the images to score.

    Raises:
        PredictionError: If a category is unknown.
    """
    return matched(truth, detections, images, _LIMITS).metrics(_READINGS)


def load_annotations(annotations: CocoAnnotations | str | Path | Mapping[str, Any], iou_type: str) -> CocoAnnotations:
    """Annotations from a file, or from what it holds, with masks where masks are compared.

    Raises:
        AnnotationError: If they are not sound.
        TaskError: If ``iou_type`` is unknown.
    """
    check_iou_type(iou_type)
    if isinstance(annotations, CocoAnnotations):
        return annotations
    return CocoAnnotations.load(annotations, with_masks=iou_type == "segm")


def choose_images(annotations: CocoAnnotations, images: Sequence[int] | None) -> list[int]:
    """Positions of the image ids asked for, all if None.

    Raises:
        TaskError: If there are none, or the annotations do not know one of them.
    """
    known = {image["id"]: position for position, image in enumerate(annotations.images)}
    chosen = list(known if images is None else images)
    unknown = [image_id for image_id in chosen if whole_number(image_id) not in known]
    if unknown or not chosen:
        wrong = f"has ids that the annotations do not know: {unknown[:5]}" if unknown else "is empty"
        raise TaskError(f"images= {wrong}. Give image ids of the annotation file, or None for all {len(known)}.")
    return [known[image_id] for image_id in chosen]


def read_results(detections: str | Path | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """COCO results from a list or a JSON file of one.

    Raises:
        AnnotationError: If the file is missing or not JSON.
        PredictionError: If it is no list.
    """
    results = read_annotation_file(detections) if isinstance(detections, str | Path) else detections
    if isinstance(results, Mapping) or not isinstance(results, Sequence):
        raise PredictionError(f"detections are a {type(results).__name__}; expected a list of COCO results.")
    return results


def check_results(results: Sequence[Mapping[str, Any]], annotations: CocoAnnotations, iou_type: str) -> None:
    """Nothing, if every result can be scored.

    Raises:
        PredictionError: If a result lacks a key, has a number that is not finite or a mask that does not fit its
            image, or names an unknown image or category. The message has its place in the list.
    """
    shape = "bbox" if iou_type == "bbox" else "segmentation"
    known = {"image_id": set(annotations.by_image), "category_id": set(annotations.category_ids)}
    for position, result in enumerate(results):
        place = f"detections[{position}]"
        if not isinstance(result, Mapping):
            raise PredictionError(f"{place} is a {type(result).__name__}; expected an object with image_id and others.")
        missing = [key for key in ("image_id", "category_id", "score", shape) if key not in result]
        if missing:
            raise PredictionError(f"{place} lacks {missing}; it has {sorted(map(str, result))}.")
        for key, ids in known.items():
            if whole_number(result[key]) not in ids:
                raise PredictionError(
                    f"{place} has the unknown {key} {result[key]!r}; expected a number that the annotations have."
                )
        if not finite_number(result["score"]):
            raise PredictionError(f"{place} has the score {result['score']!r}; expected a finite number.")
        if shape == "bbox" and not finite_numbers(result["bbox"], 4):
            raise PredictionError(
                f"{place} has the bbox {result['bbox']!r}; expected x, y, width, height, all of them finite."
            )
    if shape == "segmentation":
        fault = first_fault((result[shape], annotations.sizes[int(result["image_id"])]) for result in results)
        if fault is not None:
            raise PredictionError(f"detections[{fault[0]}] {fault[1]}.")


def as_detections(results: Sequence[Mapping[str, Any]], annotations: CocoAnnotations, iou_type: str) -> DetectionTable:
    """COCO results as flat arrays.

    Raises:
        PredictionError: If a result cannot be scored: see ``check_results``.
    """
    check_results(results, annotations, iou_type)
    position = {image["id"]: number for number, image in enumerate(annotations.images)}
    return DetectionTable(
        images=np.array([position[result["image_id"]] for result in results], np.intp),
        categories=np.array([result["category_id"] for result in results], np.intp),
        scores=np.array([result["score"] for result in results], np.float64),
        shapes=[as_rle(result["segmentation"], *annotations.sizes[result["image_id"]]) for result in results]
        if iou_type == "segm"
        else np.array([result["bbox"] for result in results], np.float64).reshape(-1, 4),
    )
