"""Histograms of a tensor in float and quantized, brought to the same few bins."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.quantize.histogram import AdaptiveHistogram
from sensitivity.records.results.distribution import MOST_BINS, MOST_VALUES, Distribution

_EVERY = 4  # of a large tensor about every fourth value is counted


def _signed() -> AdaptiveHistogram:
    return AdaptiveHistogram(absolute=False)


@dataclass(eq=False)
class ValueCounts:
    """Counts the values of a tensor batch by batch, in float and quantized.

    Attributes:
        channel_axis: The axis whose channels are told apart, from the front or the back; None for none.
        before: Counts in float.
        after: Counts when quantized; nothing where they were never given.
        largest: Largest absolute value of each channel; None before the first batch, and where batches differ in
            their channels.
    """

    channel_axis: int | None = None
    before: AdaptiveHistogram = field(default_factory=_signed)
    after: AdaptiveHistogram = field(default_factory=_signed)
    largest: Tensor | None = None

    def add(self, tensor: Tensor, quantized: Tensor | None) -> None:
        """Count one batch.

        Args:
            tensor: Floating-point tensor of any shape with at least one element.
            quantized: What the recipe makes of it, of the same shape; None where it leaves it as it is.

        Raises:
            CalibrationError: If a value is not finite.
        """
        self.before.add(tensor, every=_EVERY)
        if quantized is not None:
            self.after.add(quantized, every=_EVERY)
        if self.channel_axis is None or not -tensor.dim() <= self.channel_axis < tensor.dim():
            return
        axis = self.channel_axis % tensor.dim()
        others = [each for each in range(tensor.dim()) if each != axis]
        low, high = (tensor.amin(others), tensor.amax(others)) if others else (tensor, tensor)
        largest = torch.maximum(low.abs(), high.abs()).float()
        if self.largest is None:
            self.largest = largest
        elif self.largest.shape == largest.shape:
            self.largest = torch.maximum(self.largest, largest)
        else:
            self.channel_axis = self.largest = None  # a shared head whose calls have other channels

    def distribution(
        self, covered: tuple[float, float] | None = None, cured: tuple[float, float] | None = None
    ) -> Distribution:
        """What was counted, in at most 64 bins.

        Args:
            covered: Lowest and highest value of the recipe's codes.
            cured: The same of the layer's cure.
        """
        counted = [self.before, *([self.after] if self.after.total else [])]
        exponent = _common_exponent(counted)
        first = min(_bins(each, exponent)[0] for each in counted)
        last = max(_bins(each, exponent)[-1] for each in counted)
        before, *after = (_counts(each, exponent, int(first), int(last)) for each in counted)
        channel, ratio = self._channel()
        return Distribution(
            float(first) * 2.0**exponent,
            2.0**exponent,
            before,
            after[0] if after else (),
            self.before.low,
            self.before.high,
            most_within(self.before),
            covered,
            cured,
            channel,
            ratio,
        )

    def _channel(self) -> tuple[int | None, float | None]:
        """The channel with the largest value, and how many times the median channel's that is."""
        if self.largest is None or len(self.largest) < 2:
            return None, None
        median = float(self.largest.median())
        largest = int(self.largest.argmax())
        return largest, float(self.largest[largest]) / median if median > 0.0 else None


def most_within(histogram: AdaptiveHistogram) -> float:
    """The absolute value that 99.9 % of the values counted do not exceed, to a bin's width."""
    edges = (histogram.first + np.arange(len(histogram.counts) + 1)) * histogram.width
    sizes = np.maximum(np.abs(edges[:-1]), np.abs(edges[1:]))
    order = np.argsort(sizes, kind="stable")
    reached = np.searchsorted(np.cumsum(histogram.counts[order]), MOST_VALUES * histogram.total)
    return min(float(sizes[order][reached]), max(-histogram.low, histogram.high))


def _common_exponent(counted: list[AdaptiveHistogram]) -> int:
    """The smallest exponent of two whose bins hold all of them in 64."""
    exponent = max(each.exponent for each in counted)
    while True:
        bins = np.concatenate([_bins(each, exponent) for each in counted])
        if bins.max() - bins.min() < MOST_BINS:
            return exponent
        exponent += 1


def _bins(histogram: AdaptiveHistogram, exponent: int) -> NDArray[np.int64]:
    """The wide bin of each bin of a histogram."""
    own = np.arange(histogram.first, histogram.first + len(histogram.counts), dtype=np.int64)
    return own >> min(exponent - histogram.exponent, 62)


def _counts(histogram: AdaptiveHistogram, exponent: int, first: int, last: int) -> tuple[int, ...]:
    counts = np.zeros(last - first + 1, dtype=np.int64)
    np.add.at(counts, _bins(histogram, exponent) - first, histogram.counts)
    return tuple(counts.tolist())
