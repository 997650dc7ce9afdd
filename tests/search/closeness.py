"""A task whose metric falls smoothly with the error of the outputs, and a net whose layers suffer differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Batch
from tests.sweep.tensor_task import TensorTask


class Uneven(nn.Module):
    """Four convolutions; what the third reads has a few values far beyond all others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.tail = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x).relu()).relu()
        spike = torch.zeros_like(x)
        spike[:, 0, 0, 0] = 60.0
        out: Tensor = self.head(self.tail(x + spike).relu())
        return out


class Opposites(nn.Module):
    """Two layers that read a value far beyond all others: the first one's is thrown away, the second one's is told."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.clipped, self.whole = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(3, 8, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        spike = torch.zeros_like(x)
        spike[:, 0, 0, 0] = 60.0
        mask = torch.ones_like(x[:, :1])
        mask[:, :, 0, 0] = 0.0
        return torch.cat([self.clipped(x + spike) * mask, self.whole(x * 0.1 + spike) / 8.0], dim=1)


class Lopsided(nn.Module):
    """Two convolutions with a ReLU between; one channel there is written a hundred times too large, and so read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.write, self.read = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.write.weight[0] *= 100.0
            self.read.weight[:, 0] /= 100.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.read(self.write(x).relu())
        return out


class Closeness(TensorTask):
    """100 % where the outputs are those of the float model; less by the noise's share of the signal."""

    name = "closeness"
    metric = "closeness"

    def __init__(self, model: nn.Module, images: int = 8, *, batch_size: int = 4) -> None:
        generator = torch.Generator().manual_seed(1)
        super().__init__(torch.randn(images, 3, 8, 8, generator=generator), batch_size=batch_size)
        with torch.no_grad():
            self.expected = model(self.inputs)

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        self.passes += 1
        outputs = model(*batch.inputs)
        expected = self.expected[list(batch.images)]
        noise = (outputs - expected).square().sum((1, 2, 3)) / expected.square().sum((1, 2, 3))
        return noise.tolist()

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        return {"closeness": 1.0 - sum(predictions.values()) / len(predictions)}


def subject(images: int = 8, net: type[nn.Module] = Uneven) -> tuple[sv.Wrapped, Closeness]:
    model = net().eval()
    return sv.wrap(model, torch.zeros(1, 3, 8, 8), name=net.__name__.lower()), Closeness(model, images)
