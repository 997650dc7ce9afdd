"""Detectors of a family from outside, in plain torch, and their connector as an outsider would write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Connected, Purpose

STRIDE = 8


class GridDetector(nn.Module):
    """One box of each cell: its outputs are raw."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=STRIDE, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 4 + classes, 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))


class ChoosingDetector(GridDetector):
    """Its forward ends in a choice of boxes, as many as the image has: no graph of a fixed size."""

    def forward(self, x: Tensor) -> Any:
        raw = super().forward(x)
        return [image.flatten(1).T[image.flatten(1)[4:].amax(0) > 0] for image in raw]


def boxes_of(rows: Tensor, size: Sequence[int], grid: Sequence[int]) -> dict[str, Tensor]:
    """Each row is a cell's; boxes are in pixels of an image of this (height, width)."""
    height, width = size
    centre = rows[:, :2].sigmoid() * rows.new_tensor([width, height])
    sides = rows[:, 2:4].sigmoid() * rows.new_tensor([width, height]) / max(grid)
    scores, labels = rows[:, 4:].sigmoid().max(1)
    return {"boxes": torch.cat([centre - sides / 2, centre + sides / 2], 1), "scores": scores, "labels": labels}


@dataclass(frozen=True)
class Cells:
    """Boxes of raw outputs, or of rows that the network has chosen."""

    side: int

    def __call__(self, outputs: Any, sizes: Sequence[Any]) -> list[dict[str, Tensor]]:
        rows = [image if image.ndim == 2 else image.flatten(1).T for image in outputs]
        grid = (self.side // STRIDE, self.side // STRIDE)
        return [boxes_of(image, size, grid) for image, size in zip(rows, sizes, strict=True)]


def connect(model: Any, *, side: int = 32) -> Connected:
    """A detector of this module."""
    model.eval()
    return Connected(
        family="mine",
        purpose=Purpose.DETECTION,
        model=model,
        example_inputs=torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)),
        preprocess=sv.Resize(height=side, width=side),
        adapter=Cells(side),
        classes=tuple("abcdefg"[: model.classes]),
        last_label=model.classes - 1,
        batch_size=4,
        parts=("features", "head") if isinstance(model, ChoosingDetector) else None,
    )


class Untold:
    """A preprocessing without a text of its own."""

    def __call__(self, image: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image[:32, :32].transpose(2, 0, 1))).float()
