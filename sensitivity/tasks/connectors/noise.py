"""An image of noise, for the example inputs of a network."""

from __future__ import annotations

import torch


def noise(*shape: int) -> torch.Tensor:
    """An image of noise in [0, 1), the same every time; torch's own generator is not touched."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))
