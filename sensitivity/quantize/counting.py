"""Observers that count values in a histogram and choose a range from the counts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sensitivity.quantize.histogram import AdaptiveHistogram
from sensitivity.quantize.observers import Bounds, CheckedObserver
from sensitivity.quantize.search import entropy_bins, mse_range, percentile_range
from sensitivity.records import QuantSpec
from sensitivity.records.recipes.formats import find_format


class _HistogramObserver(CheckedObserver):
    """Counts values in an ``AdaptiveHistogram``, all or every n-th; the subclass chooses the range from the counts."""

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self._histogram = AdaptiveHistogram(absolute=self._counts_absolute_values())

    def _counts_absolute_values(self) -> bool:
        return self.spec.symmetric

    def _take(self, x: Tensor) -> None:
        self._histogram.add(x, every=self.spec.sample_every)

    def _merge(self, other: Self) -> None:
        self._histogram.merge(other._histogram)

    def state(self) -> dict[str, Any]:
        """The counts."""
        return self._histogram.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Know these counts."""
        self._histogram.load_state(state)

    def _find_range(self) -> Bounds | None:
        if not self._histogram.total:
            return None
        low, high = self._choose()
        return torch.tensor(low, dtype=torch.float32), torch.tensor(high, dtype=torch.float32)

    @abstractmethod
    def _choose(self) -> tuple[float, float]:
        """The bounds, from a histogram that is not empty."""

    def _within(self, bound: float) -> tuple[float, float]:
        """[-bound, bound], but no wider than the values seen."""
        return max(self._histogram.low, -bound), min(self._histogram.high, bound)


class PercentileObserver(_HistogramObserver):
    """The range that holds ``spec.percentile`` percent of all values, to within 1/1023 of the full range.

    Symmetric: that share of the absolute values. Affine: half of the rest is left out at either end.
    """

    def rows_range(self, rows: Tensor, *, narrow: bool) -> Bounds:  # noqa: ARG002 - the contract's
        """The exact percentile of each row; see ``contracts.RangesRows``."""
        return percentile_range(rows, self.spec.percentile, symmetric=self.spec.symmetric)

    def _choose(self) -> tuple[float, float]:
        outside = 1.0 - self.spec.percentile / 100.0
        if self.spec.symmetric:
            return self._within(self._histogram.quantile(1.0 - outside))
        return self._histogram.quantile(outside / 2), self._histogram.quantile(1.0 - outside / 2)


class MseObserver(_HistogramObserver):
    """The shrunken range with the smallest squared error of quantization: ``mse_range`` on the histogram.

    Within a bin the values are taken as evenly spread, at ``_POINTS`` points.
    """

    _POINTS = 8

    def rows_range(self, rows: Tensor, *, narrow: bool) -> Bounds:
        """The range of each row with the smallest squared error, exactly; see ``contracts.RangesRows``."""
        return mse_range(rows, rows.amin(1), rows.amax(1), self.spec, narrow=narrow)

    def _counts_absolute_values(self) -> bool:
        return False  # the codes are not symmetric: -128 has no counterpart, which is much in two bits

    def _choose(self) -> tuple[float, float]:
        histogram = self._histogram
        places = (np.arange(len(histogram.counts) * self._POINTS) + 0.5) / self._POINTS
        points = (histogram.first + places) * histogram.width
        low, high = mse_range(
            torch.from_numpy(points)[None],
            torch.tensor([histogram.low], dtype=torch.float64),
            torch.tensor([histogram.high], dtype=torch.float64),
            self.spec,
            narrow=False,
            counts=torch.from_numpy(histogram.counts).repeat_interleave(self._POINTS)[None],
        )
        return float(low), float(high)


class EntropyObserver(_HistogramObserver):
    """The range whose quantized histogram is nearest to the real one: ``entropy_bins``, TensorRT's algorithm.

    Differs from TensorRT in the bins: theirs are 1/2048 of the largest absolute value, ours a power of two, between
    1024 and 2048 of them.
    It counts evenly spaced levels, so it is for integer formats.
    """

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self._levels = find_format(spec.format).qmax + 1

    def _counts_absolute_values(self) -> bool:
        return True

    def _choose(self) -> tuple[float, float]:
        return self._within(entropy_bins(self._histogram.counts, self._levels) * self._histogram.width)
