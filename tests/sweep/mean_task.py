"""Tasks whose metric is a plain mean, on data made from a seed; everything can be sent to another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sensitivity.contracts import Batch
from tests.sweep.tensor_task import TensorTask


class Chain(nn.Module):
    """Four convolutions; what they make of an image depends on it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 1))
        self.head = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.stem(x)).relu()).mean((1, 2, 3)).sigmoid()
        return out


class MeanTask(TensorTask):
    """The mean of what the model says of each image."""

    name = "mean"
    metric = "mean"

    def __init__(self, images: int, *, batch_size: int = 4) -> None:
        generator = torch.Generator().manual_seed(1)
        scale = torch.rand(images, 1, 1, 1, generator=generator) * 3
        super().__init__(torch.randn(images, 3, 6, 6, generator=generator) * scale, batch_size=batch_size)

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        self.passes += 1
        return [float(output) for output in model(*batch.inputs)]

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        return {"mean": float(np.mean(list(predictions.values())))}


class InstanceTask(MeanTask):
    """The mean over instances: image i has i % 4 of them, all with what the model says of the image."""

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        means = super().predict(model, batch)
        return [{"values": [mean] * (image % 4)} for mean, image in zip(means, batch.images, strict=True)]

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        return {
            "mean": float(np.mean([value for prediction in predictions.values() for value in prediction["values"]]))
        }

    def instances(self) -> list[int]:
        return [image % 4 for image in range(len(self))]

    def instance_sum(self, prediction: Any) -> float:
        return float(sum(prediction["values"]))
