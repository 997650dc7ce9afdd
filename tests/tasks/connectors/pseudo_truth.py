"""Ground truth near what a network finds, so that a network with random weights has an AP that means something."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Row = dict[str, Any]
"""A result in COCO's format."""


def results_of(image_id: int, boxes: Any, scores: Any, ids: Any, masks: Any = None, poses: Any = None) -> list[Row]:
    """COCO results of one image.

    Args:
        image_id: Of the image.
        boxes: (N, 4) x1, y1, x2, y2.
        scores: (N,).
        ids: (N,) category ids.
        masks: (N, H, W) bool, for instances.
        poses: (N, K, 3) x, y and anything, for keypoints.
    """
    rows = []
    for number, (box, score, category) in enumerate(zip(*map(np.asarray, (boxes, scores, ids)), strict=True)):
        x1, y1, x2, y2 = np.asarray(box, np.float64).tolist()
        row: Row = {"image_id": image_id, "category_id": int(category), "score": float(score)}
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if masks is not None:
            row["segmentation"] = mask_tools.encode(np.asfortranarray(np.asarray(masks[number]), np.uint8))
        if poses is not None:
            row["keypoints"] = np.asarray(poses[number], np.float64).ravel().tolist()
        rows.append(row)
    return rows


def write_truth(path: Path, images: Sequence[Path], rows: Sequence[Row], names: Sequence[str]) -> Path:
    """An annotation file of some of these results, moved a little; every third one is of another category.

    Args:
        path: The file.
        images: The image files; the position of one is its id.
        rows: Results of the family's own code.
        names: Of the categories, whose ids count from 1.
    """
    draw = np.random.default_rng(0)
    sizes = [Image.open(image).size for image in images]
    objects: list[Row] = []
    for image_id in range(len(images)):
        best = sorted((row for row in rows if row["image_id"] == image_id), key=lambda row: -row["score"])
        for rank, row in enumerate(best[:12:2]):
            objects.append(_moved(row, draw, len(objects) + 1, len(names) if rank % 3 == 2 else 0))
    listed = [
        {"id": number, "file_name": image.name, "width": width, "height": height}
        for number, (image, (width, height)) in enumerate(zip(images, sizes, strict=True))
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    path.write_text(json.dumps({"images": listed, "annotations": objects, "categories": categories}))
    return path


def _moved(row: Row, draw: np.random.Generator, number: int, categories: int) -> Row:
    x, y, width, height = row["bbox"]
    dx, dy = draw.uniform(-0.08, 0.08, 2) * (width, height)
    category = row["category_id"] % categories + 1 if categories else row["category_id"]
    moved: Row = {"id": number, "image_id": row["image_id"], "category_id": category, "iscrowd": 0}
    moved |= {"bbox": [x + dx, y + dy, width, height], "area": width * height}
    if "segmentation" in row:
        mask = np.roll(mask_tools.decode(row["segmentation"]), (int(dy), int(dx)), (0, 1))
        encoded = mask_tools.encode(np.asfortranarray(mask))
        moved |= {
            "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
            "area": float(mask.sum()),
            "bbox": mask_tools.toBbox(encoded).tolist(),
        }
    if "keypoints" in row:
        points = np.array(row["keypoints"]).reshape(-1, 3)
        points[:, :2] += draw.normal(0, 0.05, (len(points), 2)) * max(width, height)
        points[:, 2] = 2
        moved |= {"keypoints": points.ravel().tolist(), "num_keypoints": len(points)}
    return moved


def pycocotools_metrics(truth: Path, rows: Sequence[Row], iou_type: str) -> Mapping[str, float]:
    """AP, AP50 and AR by pycocotools."""
    dataset = COCO(str(truth))
    results = dataset.loadRes(list(rows))
    evaluation = COCOeval(dataset, results, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    recall = {"AR": evaluation.stats[5]} if iou_type == "keypoints" else {"AR100": evaluation.stats[8]}
    return {"AP": evaluation.stats[0], "AP50": evaluation.stats[1], **recall}
