"""One histogram whose range grows: it costs the same for ten images and for ten thousand.

Bins are ``width`` wide, ``width`` a power of two, and start at whole multiples of it. When values no longer fit into
``BINS`` bins, the width is doubled and neighbours are merged. Old and new bins nest, and dividing a float by a power of
two is exact, so the counts are those of one histogram of all values at once: they depend neither on how the values
were batched nor on their order. The range always includes zero, and a bin is at most 1/1023 of it: bins half as wide
would not have held it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.errors import CalibrationError

BINS = 2048
_SMALLEST_EXPONENT = -126  # 2.0 ** 126, by which values are multiplied, is still a float32
_CHUNK = 1 << 16  # elements counted at once: their bin numbers stay in the cache of a CPU core
_SAMPLED_FROM = 1 << 14  # values of an image; smaller ones are counted in full


def sampled(x: Tensor, every: int) -> Iterator[Tensor]:
    """About every n-th value of each image, 1-d, image by image.

    The step is the first number from ``every`` on that has no divisor in common with the number of values of an image,
    so that no row, column or channel is favoured. An image of fewer than ``_SAMPLED_FROM`` values gives them all: there
    is no time to be saved. Which values are taken depends on the image alone, not on the batch.

    Args:
        x: Tensor of any shape; an image is an element of the first axis.
        every: At least 1.
    """
    images = x if x.dim() else x[None]
    elements = images[0].numel()
    if elements < _SAMPLED_FROM or every == 1:
        yield _flat(x)
        return
    step = next(number for number in count(every) if math.gcd(number, elements) == 1)
    for image in images:
        yield image.reshape(-1)[::step]


def _flat(x: Tensor) -> Tensor:
    """The values in the order they have in memory where that needs no copy: the order does not count."""
    strides = x.stride()
    in_memory = x.permute(sorted(range(x.dim()), key=lambda axis: -strides[axis]))
    return in_memory.reshape(-1)


class AdaptiveHistogram:
    """Counts of all values added, in at most ``BINS`` bins.

    Args:
        absolute: Count absolute values, for ranges that will be symmetric: all bins are then on one side of zero.

    Attributes:
        absolute: As given.
        counts: int64 (B,), B <= BINS.
        first: Number of the first bin: bin b covers [(first + b) * width, (first + b + 1) * width).
        exponent: Bins are 2.0 ** exponent wide.
        low: Smallest value, with its sign; infinity before the first.
        high: Largest value, with its sign; -infinity before the first.
    """

    def __init__(self, *, absolute: bool) -> None:
        self.absolute = absolute
        self.counts: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self.first = 0
        self.exponent = _SMALLEST_EXPONENT
        self.low = math.inf
        self.high = -math.inf

    @property
    def total(self) -> int:
        """Number of values added."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0**self.exponent

    def add(self, x: Tensor, *, every: int = 1) -> None:
        """Count the values of a tensor.

        Args:
            x: Floating-point tensor of any shape and device, with at least one element; counted as float32.
            every: Count about every n-th value of each image only (see ``sampled``). The smallest and the largest
                value are those of all.

        Raises:
            CalibrationError: If it holds NaN or infinite values; the counts stay as they were.
        """
        x = x.detach()
        low, high = torch.stack(torch.aminmax(x)).float().tolist()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError(
                f"an observed tensor of shape {tuple(x.shape)} holds NaN or infinite values (range [{low}, {high}]). "
                "Check the model's weights and the images it is calibrated on."
            )
        self._make_room(low, high)
        scale = 2.0**-self.exponent
        for values in sampled(x, every):
            for chunk in torch.split(values, _CHUNK):  # no copy of the whole tensor is ever made
                places = chunk.float() * scale
                if self.absolute:
                    places = places.abs_()
                else:
                    places = places.floor_()
                    if self.exponent > 0:  # only then a product can be too small for a float32, and lose its sign
                        places.masked_fill_((places == 0) & (chunk < 0), -1.0)
                    places.sub_(self.first)
                counted = torch.bincount(places.to(torch.int32), minlength=len(self.counts))
                self.counts += counted.cpu().numpy()

    def merge(self, other: AdaptiveHistogram) -> None:
        """Take everything that another histogram has counted into account, as if its values had been added here.

        Args:
            other: One that counts absolute values where this one does; not changed.
        """
        if not other.total:
            return
        self._make_room(other.low, other.high)
        bins = np.arange(other.first, other.first + len(other.counts))
        np.add.at(self.counts, (bins >> (self.exponent - other.exponent)) - self.first, other.counts)

    def state(self) -> dict[str, Any]:
        """Everything it knows, as numbers and one array."""
        return {
            "counts": self.counts.copy(),
            "first": self.first,
            "exponent": self.exponent,
            "low": self.low,
            "high": self.high,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Know what another histogram knew when its ``state`` was taken, and nothing else."""
        self.counts = np.array(state["counts"], dtype=np.int64)
        self.first, self.exponent = int(state["first"]), int(state["exponent"])
        self.low, self.high = float(state["low"]), float(state["high"])

    def _make_room(self, low: float, high: float) -> None:
        """Double the width until everything fits, then lay bins from the lowest value to the highest."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        below, above = self._span()
        exponent = self.exponent
        if above > below:
            exponent = max(exponent, math.frexp((above - below) / BINS)[1] - 1)
        while math.floor(above / 2.0**exponent) - math.floor(below / 2.0**exponent) >= BINS:
            exponent += 1
        first = math.floor(below / 2.0**exponent)
        counts = np.zeros(math.floor(above / 2.0**exponent) - first + 1, dtype=np.int64)
        old_bins = np.arange(self.first, self.first + len(self.counts))
        np.add.at(counts, (old_bins >> min(exponent - self.exponent, 62)) - first, self.counts)
        self.counts, self.first, self.exponent = counts, first, exponent

    def _span(self) -> tuple[float, float]:
        """What the bins must cover: all values counted, and zero."""
        if self.absolute:
            return 0.0, max(-self.low, self.high)
        return min(self.low, 0.0), max(self.high, 0.0)

    def quantile(self, share: float) -> float:
        """The value below which this share of all values lies, as ``numpy.quantile`` defines it (linear).

        Differs from the exact answer by at most the width of a bin.

        Args:
            share: In [0, 1].
        """
        rank = share * (self.total - 1)
        lower, upper = self._value_at(math.floor(rank)), self._value_at(math.ceil(rank))
        return lower + (upper - lower) * (rank - math.floor(rank))

    def _value_at(self, rank: int) -> float:
        """The value at this place among all, sorted: values are taken as evenly spaced within their bin."""
        cumulated = np.cumsum(self.counts)
        place = int(np.searchsorted(cumulated, rank, side="right"))
        before = int(cumulated[place] - self.counts[place])
        value = (self.first + place + (rank - before + 0.5) / int(self.counts[place])) * self.width
        lowest, highest = (0.0, self._span()[1]) if self.absolute else (self.low, self.high)
        return min(max(float(value), lowest), highest)
