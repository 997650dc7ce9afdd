"""How far one stream of tensors is from another: SQNR and cosine similarity, summed up in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CEILING_DB = 150.0
"""SQNR where there is no noise at all. A float32 carries 24 bits, 144.5 dB, so no real difference is smaller."""


class Fidelity:
    """Energies of a reference, of what was found in its place, and of the difference."""

    def __init__(self) -> None:
        self.signal = self.found = self.noise = self.product = 0.0
        self.elements = 0

    def add(self, reference: Tensor, found: Tensor) -> None:
        """Take a pair of floating-point tensors of the same shape into account."""
        if not reference.numel():
            return
        one, other = reference.detach().double().reshape(-1), found.detach().double().reshape(-1)
        self.signal += float(torch.dot(one, one))
        self.found += float(torch.dot(other, other))
        self.product += float(torch.dot(one, other))
        self.noise += float((one - other).square_().sum())
        self.elements += one.numel()

    @property
    def finite(self) -> bool:
        """Whether there was anything, and nothing of it NaN or infinite."""
        return self.elements > 0 and math.isfinite(self.signal + self.found + self.noise)

    @property
    def sqnr_db(self) -> float:
        """10 log10 of signal over noise, within plus and minus ``CEILING_DB``."""
        if self.noise == 0.0:
            return CEILING_DB
        if self.signal == 0.0:
            return -CEILING_DB
        return min(max(10.0 * math.log10(self.signal / self.noise), -CEILING_DB), CEILING_DB)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the two; None where one of them is zero."""
        if self.signal == 0.0 or self.found == 0.0:
            return None
        return min(1.0, self.product / math.sqrt(self.signal) / math.sqrt(self.found))

    @property
    def mse(self) -> float:
        """Mean squared difference."""
        return self.noise / self.elements
