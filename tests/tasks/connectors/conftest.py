"""A few images of several shapes with objects, in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SIZES = ((96, 128), (120, 90), (64, 64))  # height, width


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def pictures(tmp_path: Path) -> list[np.ndarray]:
    """The images as arrays; they are in tmp_path/images too."""
    draw = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    arrays = [draw.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / "images" / f"{number}.png")
    return arrays


@pytest.fixture(name="annotations")
def annotation_file(tmp_path: Path, pictures: list[np.ndarray]) -> Path:
    """Two objects in each image, of categories whose ids have gaps."""
    images = [
        {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
        for number, (height, width) in enumerate(SIZES)
    ]
    objects = [
        {
            "id": 2 * image["id"] + number + 1,
            "image_id": image["id"],
            "category_id": (2, 5)[number],
            "bbox": [8 + number, 6, 30, 40],
            "area": 1200,
            "iscrowd": 0,
            "segmentation": [[8, 6, 38, 6, 38, 46, 8, 46]],
        }
        for image in images
        for number in range(2)
    ]
    categories = [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 9, "name": "eel"}]
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return file


def predictions_of(task, model):
    """The task's predictions by position."""
    return {i: p for batch in task.batches() for i, p in zip(batch.images, task.predict(model, batch), strict=True)}
