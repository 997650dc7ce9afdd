"""The statistics of one layer's inputs, summed up image by image: the same for any batch size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.quantize.cures.patches import Geometry, Patches, single_images
from sensitivity.quantize.cures.statistics import InputStatistics, StatisticKind

MOST_MOMENT_POSITIONS = 256
"""Positions of an image that second moments are taken of: neighbours say nearly the same."""

LARGEST_BLOCK = 1152
"""Weights of a filter between which second moments are kept; a longer filter is cut into blocks of equal length."""

QuantizerOf = Callable[[int], Callable[[Tensor], Tensor] | None]
"""What quantizes the values of a call of a layer, None where nothing does."""

KEPT_IMAGES, KEPT_POSITIONS = 32, 32
"""Images, and positions in each, of which input values are kept until the range of the activations is known."""


@dataclass
class _Samples:
    """Values of a few positions of a few images, evenly spread over all that are seen."""

    every: int = 1
    seen: int = 0
    taken: list[tuple[int, Tensor]] = field(default_factory=list)
    coverage: Tensor | None = None

    def observe(self, image: Tensor, coverage: Tensor) -> None:
        """Keep some of an image, if it is its turn; (C, spatial)."""
        if self.seen % self.every == 0:
            flat = image.flatten(1)
            step = -(-flat.shape[1] // KEPT_POSITIONS)
            self.taken.append((self.seen, flat[:, self.seen % step :: step].T.clone()))
        self.seen += 1
        self.coverage = coverage if self.coverage is None else self.coverage + coverage
        while len(self.taken) > KEPT_IMAGES:
            self.every *= 2
            self.taken = [(number, values) for number, values in self.taken if number % self.every == 0]

    def error(self, quantize: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean error of quantizing each channel, float64 (C,)."""
        values = torch.cat([values for _, values in self.taken])
        return (quantize(values).double() - values.double()).mean(0)


class InputSums:
    """Sums over the patches of a layer's input.

    Args:
        geometry: How the layer slides over its input.
        kinds: What is wanted.
    """

    def __init__(self, geometry: Geometry, kinds: frozenset[StatisticKind]) -> None:
        self._geometry = geometry
        self._kinds = kinds
        self._images = 0
        self._positions = 0
        self._total: Tensor | None = None
        self._moment_positions = 0
        self._moment_total: Tensor | None = None
        self._moments: list[Tensor] = []
        self._samples: dict[int, _Samples] = {}
        self._coverages: dict[tuple[int, ...], Tensor] = {}

    def observe(self, call: int, x: Tensor) -> None:
        """Take an input into account.

        Args:
            call: At which call of the layer it was met.
            x: What the layer was given, without gradients; not changed and not kept.
        """
        for image in single_images(x.float(), self._geometry):
            if not image.numel():
                continue
            patches = Patches(image, self._geometry)
            self._positions += patches.positions
            total = patches.total()
            self._total = total if self._total is None else self._total + total
            if "moments" in self._kinds:
                self._add_moments(patches)
            if "shifts" in self._kinds:
                self._samples.setdefault(call, _Samples()).observe(image, self._coverage(image))
            self._images += 1

    def _add_moments(self, patches: Patches) -> None:
        sample = patches.sample(MOST_MOMENT_POSITIONS, self._images)
        total = sample.sum(2, dtype=torch.float64)
        self._moment_positions += sample.shape[2]
        self._moment_total = total if self._moment_total is None else self._moment_total + total
        blocks = [
            (part @ part.transpose(1, 2)).double() for part in torch.split(sample, _block_length(sample.shape[1]), 1)
        ]
        if self._moments:
            blocks = [known + block for known, block in zip(self._moments, blocks, strict=True)]
        self._moments = blocks

    def _coverage(self, image: Tensor) -> Tensor:
        """How many positions each element of a patch is read at, and not padded with zeros, (G, K)."""
        shape = tuple(image.shape)
        if shape not in self._coverages:
            self._coverages[shape] = Patches(torch.ones_like(image), self._geometry).total()
        return self._coverages[shape]

    def statistics(self, quantizer_of: QuantizerOf, kinds: frozenset[StatisticKind]) -> InputStatistics | None:
        """What was seen; None where that is nothing.

        Args:
            quantizer_of: What quantizes values (positions, C) of a call; None where they stay in float.
            kinds: Which of the statistics.
        """
        if self._total is None:
            return None
        moments = self._moments if "moments" in kinds else []
        mean = None if self._moment_total is None else (self._moment_total / self._moment_positions).cpu().numpy()
        return InputStatistics(
            (self._total / self._positions).cpu().numpy(),
            self._shift(self._total, quantizer_of) if "shifts" in kinds else None,
            tuple((block / self._moment_positions).float().cpu().numpy() for block in moments),
            mean if moments else None,
        )

    def _shift(self, total: Tensor, quantizer_of: QuantizerOf) -> NDArray[np.float64]:
        shift = torch.zeros_like(total)
        for call, samples in self._samples.items():
            quantize = quantizer_of(call)
            if quantize is None or samples.coverage is None:
                continue
            error = samples.error(quantize)
            taps = shift.numel() // len(error)
            shift += error.repeat_interleave(taps).reshape(shift.shape) * samples.coverage
        shift_mean: NDArray[np.float64] = (shift / self._positions).cpu().numpy()
        return shift_mean


def _block_length(elements: int) -> int:
    """Length of the blocks that a filter is cut into."""
    return -(-elements // -(-elements // LARGEST_BLOCK))
