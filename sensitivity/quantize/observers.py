"""Observers: see tensors one by one, then say which range to hold.

The memory of an observer depends neither on how many tensors it saw nor on their size. All but ``ema`` give the same
answer for any batch size and any order of the images, bit for bit; ``ema`` depends on the order of the images, by
definition, and not on the batch size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.formats import find_format
from sensitivity.quantize.histogram import AdaptiveHistogram
from sensitivity.quantize.scales import check_range, find_axis
from sensitivity.quantize.search import entropy_bins, mse_range
from sensitivity.records import QuantSpec


class Observer(ABC):
    """Watches the tensors at one place of a model.

    Args:
        spec: How the tensor will be quantized.

    Raises:
        RecipeError: If this observer cannot serve the spec.
    """

    name: ClassVar[str]
    granularities: ClassVar[tuple[str, ...]] = ("per-tensor",)

    def __init__(self, spec: QuantSpec) -> None:
        if spec.granularity not in self.granularities:
            raise RecipeError(
                f"observer {self.name!r} cannot watch activations {spec.granularity}, only "
                f"{' or '.join(self.granularities)}. For activations per channel use the observer 'minmax'."
            )
        self.spec = spec

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take a tensor into account.

        Args:
            x: Floating-point tensor of any shape and device, not changed. One without elements (no detections in an
                image) is passed over.

        Raises:
            CalibrationError: If it holds NaN or infinite values; ``minmax`` and ``ema``, which never wait for the
                device, say so in ``range``.
        """
        if x.numel():
            self._take(x.detach())

    def range(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of the values to be held: float32, () per tensor or (C,) per channel.

        Raises:
            CalibrationError: If nothing was observed, or it was not finite.
        """
        bounds = self._find_range()
        if bounds is None:
            raise CalibrationError(
                f"observer {self.name!r} has seen no values, so it knows no range. Run the model on calibration images "
                "that reach this layer; a layer that never gets any values cannot have its activations quantized."
            )
        check_range(*bounds)
        return bounds

    @abstractmethod
    def _take(self, x: Tensor) -> None:
        """Take a tensor of at least one element into account."""

    @abstractmethod
    def _find_range(self) -> tuple[Tensor, Tensor] | None:
        """The bounds, or None when nothing was observed."""


class MinMaxObserver(Observer):
    """Smallest and largest value ever seen, per tensor or per channel. The cheapest: one pass over the tensor."""

    name = "minmax"
    granularities: ClassVar[tuple[str, ...]] = ("per-tensor", "per-channel")

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self._bounds: tuple[Tensor, Tensor] | None = None

    def _take(self, x: Tensor) -> None:
        low, high = (bound.float() for bound in self._extremes(x))
        if self._bounds is not None:
            low, high = torch.minimum(self._bounds[0], low), torch.maximum(self._bounds[1], high)
        self._bounds = low, high

    def _extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.spec.granularity == "per-tensor":
            return torch.aminmax(x)
        axis = find_axis(1 if self.spec.axis is None else self.spec.axis, x.dim())
        others = [i for i in range(x.dim()) if i != axis]
        return x.amin(others), x.amax(others)

    def _find_range(self) -> tuple[Tensor, Tensor] | None:
        return self._bounds


class EmaObserver(MinMaxObserver):
    """Exponential moving average of each image's smallest and largest value.

    After the first image: bound = momentum * bound + (1 - momentum) * bound of this image. An image is an element of
    the first axis, so the batch size makes no difference; the order of the images does. Values beyond the average are
    clipped.

    Source:
        The thesis's simulator (joelbengs/Simulated-Quantization-of-EfficientViT-SAM, ``ptq/observer/ema.py``, after
        FQ-ViT), which calibrates image by image with ``ema_sigma=0.01``: 1 - momentum.
    """

    name = "ema"
    granularities = ("per-tensor",)
    momentum = 0.99

    def _take(self, x: Tensor) -> None:
        images = x.reshape(x.shape[0] if x.dim() else 1, -1)
        for low, high in zip(images.amin(1).float(), images.amax(1).float(), strict=True):
            if self._bounds is None:
                self._bounds = low, high
            else:
                self._bounds = self._average(self._bounds[0], low), self._average(self._bounds[1], high)

    def _average(self, old: Tensor, new: Tensor) -> Tensor:
        return self.momentum * old + (1 - self.momentum) * new


class _HistogramObserver(Observer):
    """Counts values in an ``AdaptiveHistogram``, all or every n-th; which range follows is the subclass's business."""

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self._histogram = AdaptiveHistogram(absolute=self._counts_absolute_values())

    def _counts_absolute_values(self) -> bool:
        return self.spec.symmetric

    def _take(self, x: Tensor) -> None:
        self._histogram.add(x, every=self.spec.sample_every)

    def _find_range(self) -> tuple[Tensor, Tensor] | None:
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

    name = "percentile"

    def _choose(self) -> tuple[float, float]:
        outside = 1.0 - self.spec.percentile / 100.0
        if self.spec.symmetric:
            return self._within(self._histogram.quantile(1.0 - outside))
        return self._histogram.quantile(outside / 2), self._histogram.quantile(1.0 - outside / 2)


class MseObserver(_HistogramObserver):
    """The shrunken range with the smallest squared error of quantization: ``mse_range`` on the histogram.

    Within a bin the values are taken as evenly spread, at ``_POINTS`` points.
    """

    name = "mse"
    _POINTS = 8

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

    name = "entropy"

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self._levels = find_format(spec.format).qmax + 1

    def _counts_absolute_values(self) -> bool:
        return True

    def _choose(self) -> tuple[float, float]:
        return self._within(entropy_bins(self._histogram.counts, self._levels) * self._histogram.width)


_OBSERVERS: dict[str, type[Observer]] = {
    one.name: one for one in (MinMaxObserver, EmaObserver, PercentileObserver, MseObserver, EntropyObserver)
}


def make_observer(spec: QuantSpec) -> Observer:
    """A fresh observer of the kind that the spec names.

    Raises:
        RecipeError: If that observer cannot serve the spec.

    Example:
        >>> observer = make_observer(QuantSpec("int8", observer="minmax"))
        >>> observer.observe(torch.tensor([-1.0, 3.0]))
        >>> observer.range()
        (tensor(-1.), tensor(3.))
    """
    return _OBSERVERS[spec.observer](spec)
