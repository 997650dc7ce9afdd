"""How far one stream of tensors is from another: SQNR and cosine similarity, summed up in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sensitivity.records.decibels import CEILING_DB, decibels


class Fidelity:
    """Energies of a reference, of what stands in its place, and of the difference."""

    def __init__(self) -> None:
        self.signal = self.other = self.noise = self.product = 0.0
        self.elements = 0

    def add(self, reference: Tensor, other: Tensor) -> None:
        """Take a pair of floating-point tensors of the same shape into account."""
        if not reference.numel():
            return
        left, right = reference.detach().double().reshape(-1), other.detach().double().reshape(-1)
        self.signal += float(torch.dot(left, left))
        self.other += float(torch.dot(right, right))
        self.product += float(torch.dot(left, right))
        self.noise += float((left - right).square_().sum())
        self.elements += left.numel()

    @property
    def finite(self) -> bool:
        """Whether there was anything, and nothing of it NaN or infinite."""
        return self.elements > 0 and math.isfinite(self.signal + self.other + self.noise)

    @property
    def sqnr_db(self) -> float:
        """10 log10 of signal over noise, within plus and minus ``CEILING_DB``."""
        return decibels(self.signal, self.noise, ceiling=CEILING_DB)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the two; None where one of them is zero."""
        if self.signal == 0.0 or self.other == 0.0:
            return None
        return min(1.0, self.product / math.sqrt(self.signal) / math.sqrt(self.other))

    @property
    def mse(self) -> float:
        """Mean squared difference."""
        return self.noise / self.elements
