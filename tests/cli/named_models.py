"""What the command lines of these tests name: models, tasks and images as a user's own module has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import sensitivity as sv

SIDE = 16


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))


def model() -> tuple[nn.Module, Tensor]:
    return net(), torch.zeros(1, 3, SIDE, SIDE)


def wrapped() -> sv.Wrapped:
    return sv.wrap(net().eval(), torch.zeros(1, 3, SIDE, SIDE), name="wrapped by hand")


def two_inputs() -> nn.Module:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.second = nn.Linear(5, 4)

        def forward(self, image: Tensor, vector: Tensor) -> Any:
            return self.first(image).mean((2, 3)) + self.second(vector)

    return Two()


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 3, SIDE, SIDE, generator=generator) for _ in range(4)]


def task() -> sv.FeatureFidelity:
    generator = torch.Generator().manual_seed(2)
    return sv.FeatureFidelity(torch.rand(4, 3, SIDE, SIDE, generator=generator), name="four images")


def number() -> int:
    return 7


a_model = net()


def broken() -> nn.Module:
    raise ZeroDivisionError("a bug of the user's own")
