"""What the command lines of these tests name: models, tasks and images as a user's own module has them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Batch
from tests.testing.made_detectors import GridDetector

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


def detector() -> nn.Module:
    torch.manual_seed(0)
    return GridDetector()


def number() -> int:
    return 7


a_model = net()


def broken() -> nn.Module:
    raise ZeroDivisionError("a bug of the user's own")


def noisy_model() -> tuple[nn.Module, Tensor]:
    """Prints as user code does, from Python and from below it."""
    print("loading weights ...")
    os.system("echo loading from a program")
    ctypes.CDLL(None).puts(b"loading from C")
    return model()


def calibration() -> sv.Calibration:
    return wrapped().calibrate(images(), sv.INT8)


def no_images() -> None:
    """A function without its return."""


class Impatient(sv.FeatureFidelity):
    """Ctrl-C while the third batch runs."""

    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        for number, batch in enumerate(super().batches(images)):
            if number == 2 and not self.needs_reference:
                raise KeyboardInterrupt
            yield batch


def impatient() -> Impatient:
    generator = torch.Generator().manual_seed(2)
    return Impatient(torch.rand(4, 3, SIDE, SIDE, generator=generator), batch_size=1, name="four images")


class Encoded(nn.Module):
    """As a SAM: a task calls its methods, not the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = net()
        self.head = nn.Conv2d(4, 2, 1)

    def encode(self, x: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(x)
        return encoded

    def forward(self, x: Tensor) -> Any:
        return self.head(self.encode(x))


def encoded() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    return Encoded(), torch.zeros(1, 3, SIDE, SIDE)


def encoded_task() -> sv.Task:
    inputs = images()

    def power(model: Any) -> float:
        return sum(float(model.head(model.encode(image)).square().mean()) for image in inputs)

    return sv.callback_task(power)
