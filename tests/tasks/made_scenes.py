"""Small COCO-style data sets, written to disk, and models that know the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scenes:
    """A folder of images and its annotation file."""

    images: Path
    annotations: Path

    def edit(self, change: Callable[[dict[str, Any]], object]) -> Scenes:
        """The same with a changed annotation file."""
        plain = json.loads(self.annotations.read_text())
        change(plain)
        self.annotations.write_text(json.dumps(plain))
        return self


class Recall:
    """A model that knows the answers: image number n is a constant colour n, and ``outputs[n]`` is returned for it."""

    def __init__(self, outputs: list[Any]) -> None:
        self.outputs = outputs

    def __call__(self, images: torch.Tensor) -> list[Any]:
        return [self.outputs[round(float(image.flatten()[0]) * 255)] for image in images]


def adapter(outputs: list[Any], sizes: Iterable[tuple[int, int]]) -> list[Any]:
    assert len(outputs) == len(list(sizes))
    return outputs


def polygon(box: Box) -> list[list[float]]:
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(number: int, image: int, category: int, box: Box, **more: Any) -> dict[str, Any]:
    plain = {"id": number, "image_id": image, "category_id": category, "bbox": list(box), "area": box[2] * box[3]}
    return {**plain, "iscrowd": 0, "segmentation": polygon(box), **more}


def write_scenes(folder: Path, sizes: list[tuple[int, int]], annotations: list[dict[str, Any]]) -> Scenes:
    """Images of these (height, width), each in its own colour, ids 10, 11, ...; categories 3, 5 and 8."""
    images = folder / "images"
    images.mkdir(parents=True)
    records = []
    for number, (height, width) in enumerate(sizes):
        name = f"{number}.png"
        Image.fromarray(np.full((height, width, 3), number, np.uint8)).save(images / name)
        records.append({"id": 10 + number, "file_name": name, "height": height, "width": width})
    categories = [{"id": number, "name": name} for number, name in ((8, "hat"), (3, "cat"), (5, "dog"))]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return Scenes(images, file)


SIZES = [(60, 80), (50, 50), (120, 100)]
ANNOTATIONS = [
    annotation(1, 10, 3, (5, 5, 20, 30)),
    annotation(2, 10, 5, (40, 10, 35, 40)),
    annotation(3, 12, 3, (0, 0, 100, 100)),
    annotation(4, 12, 5, (10, 20, 8, 6)),
]


def truth_as_output(scenes: Scenes) -> list[dict[str, Any]]:
    """What a perfect detector returns for each image, labels as category ids."""
    plain = json.loads(scenes.annotations.read_text())
    outputs = []
    for image in plain["images"]:
        objects = [
            annotation
            for annotation in plain["annotations"]
            if annotation["image_id"] == image["id"] and not annotation["iscrowd"]
        ]
        boxes = torch.tensor([annotation["bbox"] for annotation in objects], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = torch.zeros(len(objects), image["height"], image["width"], dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        labels = torch.tensor([annotation["category_id"] for annotation in objects], dtype=torch.int64)
        outputs.append(
            {"boxes": boxes, "scores": torch.linspace(0.9, 0.5, len(objects)), "labels": labels, "masks": masks}
        )
    return outputs


def predict_all(task: Any, model: Any, images: list[int] | None = None) -> dict[int, Any]:
    with torch.no_grad():
        return {
            image: prediction
            for batch in task.batches(images)
            for image, prediction in zip(batch.images, task.predict(model, batch), strict=True)
        }
