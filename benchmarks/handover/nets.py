"""Two small networks with what schemes must tell apart, in plain torch, which every environment has."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 32


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


NETS = {"residual": Residual, "inverted": Inverted}
PROTECTED = {"residual": ("conv1", "layer1.2", "head"), "inverted": ("depthwise", "reduce", "up")}
"""What the scheme leaves in float."""


def net(name: str) -> nn.Module:
    """One of them with random weights, always the same."""
    torch.manual_seed(0)
    return NETS[name]().eval()


def batches() -> list[Tensor]:
    """Random images to calibrate on."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, SIDE, SIDE, generator=generator) for _ in range(4)]
