"""Models in plain torch, small enough that every check run tries them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tests.deploy.nets import Efficientvit, Mobilenet, Resnet

SHAPE = (1, 3, 32, 32)


def models() -> dict[str, Callable[[], Any]]:
    """By name: each makes a model, the shape of its input, and its parts."""
    return {
        "resnet": lambda: (Resnet(), SHAPE, None),
        "mobilenet": lambda: (Mobilenet(), SHAPE, None),
        "efficientvit": lambda: (Efficientvit(), SHAPE, None),
        "vgg": lambda: (_vgg(), SHAPE, None),
    }


def _vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
