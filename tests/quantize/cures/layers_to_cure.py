"""Layers of every geometry, with an input of each."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "linear over tokens": (lambda: nn.Linear(6, 4, bias=False), (3, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 9)),
    "pointwise": (lambda: nn.Conv2d(5, 3, 1, bias=False), (3, 5, 4, 3)),
    "strided": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 3, 7, 6)),
    "dilated": (lambda: nn.Conv2d(3, 4, (3, 2), dilation=(2, 1), padding=(2, 1)), (3, 3, 6, 5)),
    "same, even": (lambda: nn.Conv2d(3, 4, (4, 2), padding="same"), (3, 3, 5, 6)),
    "reflected": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 3, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 5, 4)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (3, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (3, 2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (3, 4, 4, 3)),
    "transposed, cropped": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, padding=2, groups=2), (3, 4, 4, 5)),
    "transposed, 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=3, dilation=2, groups=2), (3, 4, 5)),
}
