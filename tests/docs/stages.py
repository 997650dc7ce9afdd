"""What a page of docs/ takes for granted: the names and files that a reader has before the first snippet runs.

A page says which stage it needs in a comment, ``<!-- stage: detector -->``. A page without one starts with nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import sensitivity as sv


class BrightSpot(nn.Module):
    """A detector that sees one bright square: a map of how bright every cell is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *[nn.Conv2d(8, 8, 1) for _ in range(10)]
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.constant_(layer.weight, 1.0 / layer.weight[0].numel())
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        brightness: Tensor = self.layers(images).mean(dim=1)
        return brightness


def decode(outputs: Tensor, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
    """The box around all cells of at least half the brightness of the brightest, in original pixels."""
    predictions = []
    for cells, (height, width) in zip(outputs, sizes, strict=True):
        rows, columns = torch.nonzero(cells >= cells.max() / 2, as_tuple=True)
        corners = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        boxes = (corners * torch.tensor([width, height, width, height]) / cells.shape[-1])[None]
        predictions.append({"boxes": boxes, "scores": cells.max()[None], "labels": torch.zeros(1).long()})
    return predictions


def write_bright_spots(folder: Path, count: int = 3) -> None:
    """``val2017`` and ``instances_val2017.json``: black images with a white square each."""
    (folder / "val2017").mkdir()
    images, annotations = [], []
    for number in range(1, count + 1):
        left = 10 * ((number - 1) % 5 + 1)
        pixels = np.zeros((80, 100, 3), np.uint8)
        pixels[20:50, left : left + 30] = 255
        Image.fromarray(pixels).save(folder / "val2017" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 80, "width": 100})
        box = {"bbox": [left, 20, 30, 30], "area": 900, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
    plain = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "instances_val2017.json").write_text(json.dumps(plain), encoding="utf-8")


def detector(folder: Path, side: int = 128) -> dict[str, Any]:
    """A detector, preprocessed images, an adapter for its outputs, and a data set in COCO's form."""
    write_bright_spots(folder)
    images = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    return {"model": BrightSpot().eval(), "example": images[:1], "images": images, "decode": decode}


def small_net() -> nn.Module:
    """Twelve layers: a stem with a norm, depthwise and pointwise convolutions by turns, and a head."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    for _ in range(5):
        blocks += [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()]
    return nn.Sequential(*blocks, nn.Conv2d(16, 4, 1)).eval()


def net(folder: Path) -> dict[str, Any]:
    """A small network of twelve layers, images, a task without labels, and a study of it that was saved."""
    model, images = small_net(), torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    wrapped = sv.wrap(model, images[:1], name="net")
    wrapped.calibrate(images, sv.INT8)
    task = sv.FeatureFidelity(images)
    study = wrapped.analyze(task, sv.INT8, progress=False)
    study.save(folder / "study.json")
    return {
        "sv": sv,
        "torch": torch,
        "model": model,
        "example": images[:1],
        "images": images,
        "wrapped": wrapped,
        "task": task,
        "study": study,
        "scheme": study.protect(top=1),
    }


def segmentation(folder: Path) -> dict[str, Any]:
    """A network that finds bright pixels, and images with label maps of one bright square each."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number in range(4):
        labels = np.zeros((40, 50), np.uint8)
        labels[10:30, 5 * number : 5 * number + 20] = 1
        Image.fromarray(np.repeat(labels[..., None] * 255, 3, axis=2)).save(folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)
    ).eval()
    with torch.no_grad():  # brightness goes through, and is compared with a half
        for layer in (model[0], model[2], model[4]):
            nn.init.constant_(layer.weight, 1.0 / layer.weight[0].numel())
            nn.init.zeros_(layer.bias)
        model[4].weight[0] = 0.0
        model[4].bias[0] = 0.5
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"model": model, "example": images[:1], "images": images}


def classification(folder: Path) -> dict[str, Any]:
    """A network that tells dark images from bright ones, and a folder of both."""
    for name, brightness in (("bright", 200), ("dark", 40)):
        (folder / "val" / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((32, 32, 3), brightness + 5 * number, np.uint8)
            Image.fromarray(pixels).save(folder / "val" / name / f"{number}.png")
    first, last = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 2)
    with torch.no_grad():
        nn.init.constant_(first.weight, 1.0 / first.weight[0].numel())
        nn.init.zeros_(first.bias)
        last.weight[0], last.weight[1] = 1.0 / 16, 0.0
        last.bias[0], last.bias[1] = 0.0, 0.5
    model = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"model": model, "example": images[:1], "images": images}


STAGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "classification": classification,
    "detector": detector,
    "net": net,
    "segmentation": segmentation,
}
