"""Models whose branches run for some inputs only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conditional(nn.Module):
    """A branch for bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.bright, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.trunk(x).relu()
        if x.mean() > 5:
            y = y + self.bright(y)
        return self.last(y)


class TrainingHead(nn.Module):
    """A head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.bright, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.trunk(x).relu()
        return (self.last(y), self.bright(y)) if self.training else self.last(y)


class EarlyExit(nn.Module):
    """Dark images leave behind the trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.first = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.bright, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.trunk(x).relu()
        return self.first(y) if x.mean() < 5 else self.last(self.bright(y).relu())


class Experts(nn.Module):
    """A router sends each pixel to one of two experts: dark ones to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.dark, self.bright = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        chosen = pixels.mean((1, 2, 3)) > 5
        y = self.trunk(pixels).relu()
        mixed = torch.empty_like(y)
        for expert, of_images in ((self.dark, ~chosen), (self.bright, chosen)):
            mixed[of_images] = expert(y[of_images])
        return self.last(y + mixed)
