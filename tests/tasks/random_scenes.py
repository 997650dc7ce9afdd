"""Random ground truth and detections, full of what detections must not trip over, and what pycocotools says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.average_precision.ground_truth import DetectionTable
from sensitivity.tasks.coco import as_detections

Plain = dict[str, Any]
SIDE = 160
# areas on the bounds of the sizes, just beside them, none, and too large for any
AREAS = (32.0**2, 32.0**2 + 1, 96.0**2, 96.0**2 - 1, 0.0, 1e10, 2e10)


def random_truth(draw: np.random.Generator, *, images: int, categories: int, objects: int) -> Plain:
    """Ids neither ascending nor in one piece; crowds; boxes on a coarse grid, so that overlaps are often equal."""
    image_ids = draw.permutation(images) * 7 + 3
    category_ids = draw.permutation(categories) * 2 + 1
    annotations = [
        {
            "id": number,
            "image_id": int(draw.choice(image_ids[: max(1, images - 1)])),
            "category_id": int(draw.choice(category_ids[: max(1, categories - 1)])),
            "bbox": (box := random_box(draw)),
            "area": float(draw.choice(AREAS)) if draw.random() < 0.3 else box[2] * box[3],
            "iscrowd": int(draw.random() < 0.15),
            "segmentation": rectangle(box),
        }
        for number in range(1, objects + 1)
    ]
    return {
        "images": [{"id": int(number), "height": SIDE, "width": SIDE} for number in image_ids],
        "categories": [{"id": int(number), "name": str(number)} for number in category_ids],
        "annotations": annotations,
    }


def random_results(draw: np.random.Generator, truth: Plain, detections: int, *, scores: int = 8) -> list[Plain]:
    """Copies and shaken copies of the objects, false ones, flat ones; few different scores, so that many are equal."""
    image_ids = [image["id"] for image in truth["images"]]
    category_ids = [category["id"] for category in truth["categories"]]
    results = []
    for _ in range(detections):
        result: Plain = {"image_id": int(draw.choice(image_ids)), "category_id": int(draw.choice(category_ids))}
        box = random_box(draw)
        if truth["annotations"] and draw.random() < 0.7:
            model = truth["annotations"][draw.integers(len(truth["annotations"]))]
            result["image_id"] = model["image_id"]
            result["category_id"] = model["category_id"] if draw.random() < 0.9 else result["category_id"]
            box = (np.array(model["bbox"]) + draw.choice([0, 0, 4, -4], 4)).clip(0).tolist()
        if draw.random() < 0.05:
            box[int(draw.integers(2, 4))] = 0.0
        result.update(bbox=box, segmentation=rectangle(box), score=int(draw.integers(-1, scores)) / scores)
        results.append(result)
    return results


def random_box(draw: np.random.Generator) -> list[float]:
    x, y = (draw.integers(0, 8, 2) * 8).tolist()
    width, height = draw.choice([8, 16, 24, 32, 36, 48, 96], 2).tolist()
    return [float(x), float(y), float(width), float(height)]


def rectangle(box: list[float]) -> Plain:
    """Compressed RLE of a box, clipped to the image."""
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    left, top, width, height = (int(number) for number in box)
    mask[top : top + height, left : left + width] = 1
    rle = mask_tools.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def flat(truth: Plain, results: list[Plain], iou_type: str = "bbox") -> tuple[CocoAnnotations, DetectionTable]:
    annotations = CocoAnnotations.load(truth)
    return annotations, as_detections(results, annotations, iou_type)


def pycocotools_evaluation(
    truth: Plain,
    results: list[Plain],
    iou_type: str = "bbox",
    *,
    images: list[int] | None = None,
    use_categories: bool = True,
) -> COCOeval:
    """An evaluation that has been summarized; ids of detections are their position + 1."""
    objects = [
        {**result, "id": number, "iscrowd": 0, "area": _area(result, iou_type)}
        for number, result in enumerate(results, start=1)
    ]
    evaluation = COCOeval(_coco(truth, truth["annotations"]), _coco(truth, objects), iou_type)
    if images is not None:
        evaluation.params.imgIds = images
    evaluation.params.useCats = int(use_categories)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _area(result: Plain, iou_type: str) -> float:
    if iou_type == "segm":
        return float(mask_tools.area(result["segmentation"]))
    return result["bbox"][2] * result["bbox"][3]


def _coco(truth: Plain, objects: list[Plain]) -> COCO:
    coco = COCO()
    coco.dataset = {**truth, "annotations": [dict(annotation) for annotation in objects]}
    coco.createIndex()
    return coco
