"""Two small networks with what schemes must tell apart, and two of the examples, in torch, which environments have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Residual(nn.Module):
    """A shortcut, a head that two levels share, names that are prefixes of others, and a product that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1)
        self.layer1 = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1))
        self.layer10 = nn.Conv2d(16, 16, 1)
        self.down = nn.Conv2d(16, 16, 3, 2, 1)
        self.head = nn.Conv2d(16, 8, 1)
        self.leave = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and a map, of images (N, 3, 32, 32) float32."""
        fine = F.relu(self.conv1(x))
        fine = F.relu(self.layer10(fine) + self.layer1(fine))
        first, second = self.head(fine), self.head(self.down(fine))
        tokens = second.flatten(2)
        return self.leave((tokens @ tokens.transpose(1, 2)).mean(2)), first


class Inverted(nn.Module):
    """Depthwise and grouped convolutions, a gate, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.expand = nn.Conv2d(16, 32, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.grouped = nn.Conv2d(32, 32, 1, groups=2)
        self.reduce, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.project = nn.Conv2d(32, 16, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """A map (N, 8, 32, 32), of images (N, 3, 32, 32) float32."""
        y = F.hardswish(self.depthwise(F.hardswish(self.expand(self.stem(x)))))
        y = F.relu(self.grouped(y))
        y = y * F.hardsigmoid(self.excite(F.relu(self.reduce(F.adaptive_avg_pool2d(y, 1)))))
        upsampled: Tensor = self.up(self.project(y))
        return upsampled


def yolo_fastest_xl() -> nn.Module:
    """The detector of the first example: inverted residual blocks and two heads."""
    sys.path.insert(0, str(EXAMPLES / "01_coco_detector"))
    from yolo_fastest import YoloFastest

    network: nn.Module = YoloFastest(xl=True)
    return network


def espnetv2() -> nn.Module:
    """The segmentation network of the second example: grouped and dilated convolutions, PReLUs, gates."""
    sys.path.insert(0, str(EXAMPLES / "02_semantic_segmentation"))
    from espnetv2 import ESPNetv2

    network: nn.Module = ESPNetv2(width="s0.5")
    return network


NETS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "inverted": Inverted,
    "yolo-fastest-xl": yolo_fastest_xl,
    "espnetv2": espnetv2,
}
SIDES = {"residual": 32, "inverted": 32, "yolo-fastest-xl": 96, "espnetv2": 128}
PROTECTED = {
    "residual": ("conv1", "layer1.2", "head"),
    "inverted": ("depthwise", "reduce", "up"),
    "yolo-fastest-xl": (),
    "espnetv2": (),
}
"""Modules that the scheme leaves in float, besides every ``EVERY``-th layer of a network."""

EVERY = {"yolo-fastest-xl": 7, "espnetv2": 5}


def net(name: str) -> nn.Module:
    """One of them with random weights, always the same."""
    torch.manual_seed(0)
    return NETS[name]().eval()


def batches(name: str) -> list[Tensor]:
    """Random images to calibrate on."""
    generator, side = torch.Generator().manual_seed(1), SIDES[name]
    return [torch.randn(1, 3, side, side, generator=generator) for _ in range(4)]
