"""timm's classifiers, with the data configuration of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from sensitivity.contracts import Connected, Purpose
from sensitivity.errors import ModelError
from sensitivity.tasks.connectors.noise import noise
from sensitivity.tasks.images.pixels import Pixels


@dataclass(frozen=True)
class Transformed:
    """An image as timm's evaluation transforms make it.

    Attributes:
        transform: What ``timm.data.create_transform`` returned.
    """

    transform: Any

    def __call__(self, image: Pixels) -> torch.Tensor:
        """Turn (H, W, 3) uint8 RGB into what the network takes."""
        transformed: torch.Tensor = self.transform(Image.fromarray(image))
        return transformed


def connect(model: nn.Module) -> Connected:
    """A classifier of timm.

    Args:
        model: What ``timm.create_model`` returned, with its classifier.
    """
    import timm.data  # type: ignore[import-not-found]

    if not getattr(model, "num_classes", 0):
        raise ModelError(
            f"{type(model).__qualname__} has no classifier. Make it with num_classes=, or score its features with "
            "sv.FeatureFidelity."
        )
    config = timm.data.resolve_model_data_config(model)
    return Connected(
        family="timm",
        purpose=Purpose.CLASSIFICATION,
        model=model.eval(),
        example_inputs=noise(1, *config["input_size"]),
        preprocess=Transformed(timm.data.create_transform(**config, is_training=False)),
        batch_size=8,
    )
