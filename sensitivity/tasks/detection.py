"""COCO average precision of boxes and masks, by pycocotools itself."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sensitivity.errors import PredictionError, TaskError
from sensitivity.tasks.annotations import CocoAnnotations, as_rle, read_json
from sensitivity.tasks.instances import DetectionTask, check_iou_type

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

# pycocotools prints its progress and has no switch; standard output belongs to the whole process.
_STANDARD_OUTPUT = threading.Lock()


class CocoDetection(DetectionTask):
    """COCO's twelve numbers for boxes or masks.

    Equal to pycocotools 2.0.11 to the last bit, since it does the counting. For any other file of images and objects
    too, as long as it is in COCO's format. Arguments, predictions and errors: see ``DetectionTask``.

    Example:
        >>> task = CocoDetection("val2017", "instances_val2017.json", preprocess=Resize(height=320, width=320),
        ...                      adapter=decode)  # doctest: +SKIP
    """

    metrics = COCO_METRICS
    program = "COCO"

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """The twelve numbers over the images predicted, as fractions; see ``evaluate_coco`` for what they average.

        Args:
            predictions: Position of the image to its prediction. No object found anywhere scores 0.

        Raises:
            TaskError: If there is no prediction, or no image at a position.
        """
        image_ids = self._image_ids(predictions)
        return _score(self.annotations, self._detections(predictions), self._iou_type, image_ids, use_categories=True)


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

    Equal to pycocotools 2.0.11, which does the counting, to the last bit.

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
    check_iou_type(iou_type)
    if not isinstance(annotations, CocoAnnotations):
        annotations = CocoAnnotations.load(annotations, with_masks=iou_type == "segm")
    chosen = choose_images(annotations, images)
    results = read_results(detections)
    check_results(results, annotations, iou_type)
    return _score(annotations, results, iou_type, chosen, use_categories=use_categories)


def choose_images(annotations: CocoAnnotations, images: Sequence[int] | None) -> list[int]:
    """The image ids asked for, all if None.

    Raises:
        TaskError: If there are none, or the annotations do not know one of them.
    """
    known = list(annotations.by_image)
    chosen = known if images is None else list(dict.fromkeys(images))  # an image given twice counts once
    unknown = sorted(set(chosen) - set(known))
    if unknown or not chosen:
        wrong = f"has ids that the annotations do not know: {unknown[:5]}" if unknown else "is empty"
        raise TaskError(f"images= {wrong}. Give image ids of the annotation file, or None for all {len(known)}.")
    return chosen


def read_results(detections: str | Path | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """COCO results from a list or a JSON file of one.

    Raises:
        AnnotationError: If the file is missing or not JSON.
        PredictionError: If it is no list.
    """
    results = read_json(detections) if isinstance(detections, str | Path) else detections
    if isinstance(results, Mapping) or not isinstance(results, Sequence):
        raise PredictionError(f"detections are a {type(results).__name__}; expected a list of COCO results.")
    return results


def check_results(results: Sequence[Mapping[str, Any]], annotations: CocoAnnotations, iou_type: str) -> None:
    """Nothing, if every result can be scored.

    Raises:
        PredictionError: If a result lacks a key, is not finite, or names an unknown image or category.
    """
    shape = "bbox" if iou_type == "bbox" else "segmentation"
    categories = set(annotations.category_ids)
    for position, result in enumerate(results):
        missing = [key for key in ("image_id", "category_id", "score", shape) if key not in result]
        if missing:
            raise PredictionError(f"detections[{position}] lacks {missing}; it has {sorted(result)}.")
        if result["image_id"] not in annotations.by_image:
            raise PredictionError(f"detections[{position}] is on the image {result['image_id']!r}, which is unknown.")
        if result["category_id"] not in categories:
            raise PredictionError(f"detections[{position}] has the unknown category id {result['category_id']!r}.")
        numbers = [result["score"], *(result["bbox"] if shape == "bbox" else ())]
        if not np.isfinite(numbers).all():
            raise PredictionError(f"detections[{position}] has a number that is not finite: {numbers}.")


def _score(
    annotations: CocoAnnotations,
    results: Sequence[Mapping[str, Any]],
    iou_type: str,
    image_ids: Sequence[int],
    *,
    use_categories: bool,
) -> dict[str, float]:
    wanted = set(image_ids)
    found = [
        {**with_area(result, iou_type, annotations.sizes[result["image_id"]]), "id": number, "iscrowd": 0}
        for number, result in enumerate((result for result in results if result["image_id"] in wanted), start=1)
    ]
    truth = [_truth(one, annotations, iou_type) for image_id in image_ids for one in annotations.by_image[image_id]]
    with _STANDARD_OUTPUT, contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_index(annotations, truth), _index(annotations, found), iou_type)
        evaluation.params.imgIds = list(image_ids)
        evaluation.params.useCats = int(use_categories)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = zip(COCO_METRICS, evaluation.stats, strict=True)
    return {name: float(number) if number >= 0 else float("nan") for name, number in numbers}


def _truth(annotation: Mapping[str, Any], annotations: CocoAnnotations, iou_type: str) -> dict[str, Any]:
    """A copy, since pycocotools writes into it; masks are RLE already, so that they are made once."""
    return {**annotation, "segmentation": annotations.masks[annotation["id"]]} if iou_type == "segm" else {**annotation}


def with_area(result: Mapping[str, Any], iou_type: str, size: tuple[int, int]) -> dict[str, Any]:
    """A COCO result with its ``area`` in pixels, and its mask as compressed RLE."""
    if iou_type == "bbox":
        return {**result, "area": result["bbox"][2] * result["bbox"][3]}
    rle = as_rle(result["segmentation"], *size)
    return {**result, "segmentation": rle, "area": float(mask_tools.area(rle))}


def _index(annotations: CocoAnnotations, objects: list[dict[str, Any]]) -> COCO:
    """A COCO of pycocotools; it writes into ``objects``."""
    coco = COCO()
    coco.dataset = {"images": annotations.images, "categories": annotations.categories, "annotations": objects}
    coco.createIndex()
    return coco
