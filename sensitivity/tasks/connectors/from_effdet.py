"""effdet's EfficientDets: the network gives class and box maps of five levels, its bench makes boxes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sensitivity.contracts import Connected, Purpose
from sensitivity.errors import ModelError
from sensitivity.tasks.connectors.noise import noise
from sensitivity.tasks.datasets import Size
from sensitivity.tasks.images.pixels import Pixels

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, which effdet's transforms take unless told otherwise."""


@dataclass(frozen=True)
class Padded:
    """An image fitted into the upper left of the input and normalised, as effdet's evaluation does.

    Attributes:
        height: Of the input, in pixels.
        width: Of the input, in pixels.
        mean: Of red, green and blue, in [0, 1].
        std: The same.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scale(self, size: Size) -> float:
        """Pixels of the input by pixels of an image of this (height, width)."""
        return min(self.height / size[0], self.width / size[1])

    def __call__(self, image: Pixels) -> Tensor:
        """Turn (H, W, 3) uint8 RGB into (3, height, width) float32."""
        scale = self.scale(image.shape[:2])
        height, width = int(image.shape[0] * scale), int(image.shape[1] * scale)
        fill = tuple(round(255 * mean) for mean in self.mean)
        canvas = Image.new("RGB", (self.width, self.height), color=fill)
        canvas.paste(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(np.asarray(canvas).transpose(2, 0, 1).copy()).float()
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (self.mean, self.std))
        return (pixels - mean) / std


@dataclass(frozen=True)
class Levels:
    """Boxes of the maps of all levels, by effdet's own post-processing.

    Attributes:
        config: The network's configuration.
        preprocess: What the images went through.
    """

    config: Any
    preprocess: Padded

    def __repr__(self) -> str:
        return f"Levels({dict(self.config)!r}, {self.preprocess!r})"

    @cached_property
    def _anchors(self) -> Any:
        from effdet.anchors import Anchors  # type: ignore[import-not-found]

        return Anchors.from_config(self.config)

    def __call__(self, outputs: Any, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Predictions in original pixels, one dict for each image; labels count from 1, as effdet's do."""
        from effdet.bench import _batch_detection, _post_process  # type: ignore[import-not-found]

        scores, boxes = outputs
        config = self.config
        processed = _post_process(
            scores, boxes, config.num_levels, config.num_classes, max_detection_points=config.max_detection_points
        )
        scales = torch.tensor([1 / self.preprocess.scale(size) for size in sizes])
        shapes = torch.tensor([[width, height] for height, width in sizes]).float()
        detections = _batch_detection(
            len(sizes),
            *[value.cpu() for value in processed[:2]],
            self._anchors.boxes,
            *[value.cpu() for value in processed[2:]],
            scales,
            shapes,
            max_det_per_image=config.max_det_per_image,
            soft_nms=config.soft_nms,
        )
        return [{"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()} for rows in _real(detections)]


def _real(detections: Any) -> list[Tensor]:
    """Detections of each image without the zeros that fill up its rows."""
    return [rows[rows[:, 4] > 0] for rows in detections]


def connect(model: Any) -> Connected:
    """An EfficientDet of effdet.

    Args:
        model: ``EfficientDet``, or a bench around one, of which the network is taken.
    """
    network = getattr(model, "model", model)
    config = getattr(network, "config", None)
    if config is None or not hasattr(config, "image_size"):
        raise ModelError(
            f"{type(model).__qualname__} is no EfficientDet of effdet. Give what effdet.create_model made."
        )
    network.eval()
    height, width = config.image_size
    preprocess = Padded(height, width, MEAN, STD)
    return Connected(
        family="effdet",
        purpose=Purpose.DETECTION,
        model=network,
        example_inputs=noise(1, 3, height, width),
        preprocess=preprocess,
        adapter=Levels(config, preprocess),
        first_label=1,
        last_label=int(config.num_classes),
        batch_size=4,
    )
