"""Observers: see tensors one by one, then say which range to hold.

The memory of an observer depends neither on how many tensors it saw nor on their size. All but ``ema`` give the same
answer for any batch size and any order of the images, bit for bit; ``ema`` depends on the order of the images, by
definition, and not on the batch size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sensitivity.contracts import Observer
from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.histogram import AdaptiveHistogram
from sensitivity.quantize.scales import check_range, find_axis
from sensitivity.quantize.search import entropy_bins, mse_range, percentile_range
from sensitivity.records import QuantSpec
from sensitivity.records.formats import find_format
from sensitivity.records.observers import ObserverKind, find_observer, observers_that

Bounds = tuple[Tensor, Tensor]


class CheckedObserver(ABC):
    """An ``Observer`` that only lacks what is its own: how a tensor is taken into account, and which range follows.

    Empty tensors are passed over, observers of another kind are not merged, and a range that is missing or not finite
    is an error.

    Args:
        spec: How the tensor will be quantized.
    """

    def __init__(self, spec: QuantSpec) -> None:
        self.spec = spec

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take a tensor into account.

        Args:
            x: Floating-point tensor of any shape and device, not changed; images along the first axis. One without
                elements (no detections in an image) is passed over.

        Raises:
            CalibrationError: If it holds NaN or infinite values; ``minmax``, ``mean-minmax`` and ``ema``, which never
                wait for the device, say so in ``range``.
        """
        if x.numel():
            self._take(x.detach())

    def merge(self, other: Self) -> None:
        """Take what another observer has seen into account, as if it had been seen here, and last.

        Args:
            other: An observer of the same class and spec; not changed.

        Raises:
            CalibrationError: If it is of another class or spec.
        """
        if type(other) is not type(self) or other.spec != self.spec:
            raise CalibrationError(
                f"an observer for {self.spec} cannot be merged with a {type(other).__name__} for "
                f"{getattr(other, 'spec', None)}. Merge observers that were made for one spec."
            )
        self._merge(other)

    def range(self) -> Bounds:
        """Lower and upper bound of the values to be held: float32, () per tensor or (C,) per channel.

        Raises:
            CalibrationError: If nothing was observed, or it was not finite.
        """
        bounds = self._find_range()
        if bounds is None:
            raise CalibrationError(
                f"observer {self.spec.observer!r} has seen no values, so it knows no range. Run the model on "
                "calibration images that reach this layer; a layer that never gets any values cannot have its "
                "activations quantized."
            )
        check_range(*bounds)
        return bounds

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything it knows, as a tree that a store keeps: dicts, lists, numpy arrays, numbers, text and None."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Know what another observer of this spec knew when its ``state`` was taken, and nothing else."""

    @abstractmethod
    def _take(self, x: Tensor) -> None:
        """Take a tensor of at least one element into account."""

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Take what another observer of this class has seen into account."""

    @abstractmethod
    def _find_range(self) -> Bounds | None:
        """The bounds, or None when nothing was observed."""


class MinMaxObserver(CheckedObserver):
    """Smallest and largest value ever seen, per tensor or per channel. The cheapest: one pass over the tensor."""

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self._bounds: Bounds | None = None

    def rows_range(self, rows: Tensor, *, narrow: bool) -> Bounds:  # noqa: ARG002 - the contract's
        """Smallest and largest value of each row; see ``contracts.RangesRows``."""
        return rows.amin(1), rows.amax(1)

    def state(self) -> dict[str, Any]:
        """The bounds."""
        return {"bounds": _as_arrays(self._bounds)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Know these bounds."""
        self._bounds = _as_bounds(state["bounds"])

    def _take(self, x: Tensor) -> None:
        self._widen(*(bound.float() for bound in self._extremes(x)))

    def _merge(self, other: Self) -> None:
        if other._bounds is not None:
            self._widen(*other._bounds)

    def _widen(self, low: Tensor, high: Tensor) -> None:
        if self._bounds is not None:
            low, high = torch.minimum(self._bounds[0], low), torch.maximum(self._bounds[1], high)
        self._bounds = low, high

    def _extremes(self, x: Tensor) -> Bounds:
        if self.spec.granularity == "per-tensor":
            return torch.aminmax(x)
        axis = find_axis(1 if self.spec.axis is None else self.spec.axis, x.dim())
        other_axes = [i for i in range(x.dim()) if i != axis]
        return x.amin(other_axes), x.amax(other_axes)

    def _find_range(self) -> Bounds | None:
        return self._bounds


class EmaObserver(CheckedObserver):
    """Exponential moving average of each image's smallest and largest value.

    After the first image: bound = momentum * bound + (1 - momentum) * bound of this image. An image is an element of
    the first axis, so the batch size makes no difference; the order of the images does. Values beyond the average are
    clipped.

    Source:
        The thesis's simulator (joelbengs/Simulated-Quantization-of-EfficientViT-SAM, ``ptq/observer/ema.py``, after
        FQ-ViT), which calibrates image by image with ``ema_sigma=0.01``: 1 - momentum.
    """

    momentum = 0.99

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self._first: Bounds | None = None  # of the first image, which a merged observer counts in full
        self._bounds: Bounds | None = None
        self._images = 0

    def rows_range(self, rows: Tensor, *, narrow: bool) -> Bounds:  # noqa: ARG002 - the contract's
        """Smallest and largest value of each row: the average of one tensor; see ``contracts.RangesRows``."""
        return rows.amin(1), rows.amax(1)

    def state(self) -> dict[str, Any]:
        """The average, the bounds of the first image, and the number of images."""
        return {"first": _as_arrays(self._first), "bounds": _as_arrays(self._bounds), "images": self._images}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Know this average."""
        self._first, self._bounds = _as_bounds(state["first"]), _as_bounds(state["bounds"])
        self._images = int(state["images"])

    def _take(self, x: Tensor) -> None:
        lows, highs = image_extremes(x)
        for low, high in zip(lows, highs, strict=True):
            if self._bounds is None:
                self._first = self._bounds = low, high
            else:
                self._bounds = self._average(self._bounds[0], low), self._average(self._bounds[1], high)
            self._images += 1

    def _merge(self, other: Self) -> None:
        if self._bounds is None or self._first is None:
            self._first, self._bounds, self._images = other._first, other._bounds, other._images
        elif other._bounds is not None and other._first is not None:
            remaining = self.momentum**other._images  # of what was known before the other's images
            low, high = (
                others + remaining * (own - first)
                for own, others, first in zip(self._bounds, other._bounds, other._first, strict=True)
            )
            self._bounds = low, high
            self._images += other._images

    def _average(self, old: Tensor, new: Tensor) -> Tensor:
        return self.momentum * old + (1 - self.momentum) * new

    def _find_range(self) -> Bounds | None:
        return self._bounds


class MeanMinMaxObserver(CheckedObserver):
    """Mean over the images of their smallest and largest value, per tensor or per channel.

    An image is an element of the first axis. Values beyond the mean are clipped. The sums are in float64, which holds
    them exactly while the extremes of N images differ by less than a factor of 2**29 / N; then neither the order nor
    the division into batches moves a bit.

    Source:
        NNCF 3.4.0, ``RangeEstimatorParametersSet.MEAN_MINMAX``, its default for activations.
    """

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self._sums: Bounds | None = None
        self._images = 0

    def rows_range(self, rows: Tensor, *, narrow: bool) -> Bounds:  # noqa: ARG002 - the contract's
        """Smallest and largest value of each row: the mean of one tensor; see ``contracts.RangesRows``."""
        return rows.amin(1), rows.amax(1)

    def state(self) -> dict[str, Any]:
        """Sums of the extremes, and the number of images."""
        return {"sums": _as_arrays(self._sums), "images": self._images}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Know these sums."""
        self._sums = _as_bounds(state["sums"], np.float64)
        self._images = int(state["images"])

    def _take(self, x: Tensor) -> None:
        if self.spec.granularity == "per-tensor":
            lows, highs = image_extremes(x)
        else:
            lows, highs = self._channel_extremes(x)
        self._add((lows.double().sum(0), highs.double().sum(0)), len(lows))

    def _channel_extremes(self, x: Tensor) -> Bounds:
        """Smallest and largest value of each channel of each image, (N, C); one image where axis 0 is channels."""
        axis = find_axis(1 if self.spec.axis is None else self.spec.axis, x.dim())
        images = x[None] if axis == 0 else x
        channels = images.movedim(max(axis, 1), 1).reshape(images.shape[0], x.shape[axis], -1)
        return channels.amin(2).float(), channels.amax(2).float()

    def _merge(self, other: Self) -> None:
        if other._sums is not None:
            self._add(other._sums, other._images)

    def _add(self, sums: Bounds, images: int) -> None:
        self._sums = sums if self._sums is None else (self._sums[0] + sums[0], self._sums[1] + sums[1])
        self._images += images

    def _find_range(self) -> Bounds | None:
        if self._sums is None:
            return None
        low, high = (total / self._images for total in self._sums)
        return low.float(), high.float()


def image_extremes(x: Tensor) -> Bounds:
    """Smallest and largest value of each image, float32 (N,) each; an image is an element of the first axis."""
    images = x.reshape(x.shape[0] if x.dim() else 1, -1)
    return images.amin(1).float(), images.amax(1).float()


def _as_arrays(bounds: Bounds | None) -> list[Any] | None:
    return None if bounds is None else [bound.cpu().numpy().copy() for bound in bounds]


def _as_bounds(arrays: Any, dtype: type[np.floating[Any]] = np.float32) -> Bounds | None:
    if arrays is None:
        return None
    low, high = (torch.from_numpy(np.array(bound, dtype=dtype)) for bound in arrays)
    return low, high


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


def make_observer(spec: QuantSpec) -> Observer:
    """A fresh observer of the kind that the spec names.

    Raises:
        RecipeError: If that observer cannot serve the spec, or is not where its reference says.

    Example:
        >>> observer = make_observer(QuantSpec("int8", observer="minmax"))
        >>> observer.observe(torch.tensor([-1.0, 3.0]))
        >>> observer.range()
        (tensor(-1.), tensor(3.))
    """
    kind = find_observer(spec.observer)
    if spec.granularity not in kind.granularities:
        usable = observers_that(lambda other: spec.granularity in other.granularities)
        raise RecipeError(
            f"observer {kind.name!r} cannot watch activations {spec.granularity}, only "
            f"{' or '.join(kind.granularities)}. "
            + (f"For activations {spec.granularity} use {usable}." if usable else "No observer can.")
        )
    return _resolved(kind)(spec)


def _resolved(kind: ObserverKind) -> Callable[[QuantSpec], Observer]:
    """What makes observers of a kind, imported where it is given as a reference."""
    if not isinstance(kind.source, str):
        return kind.source
    module, _, name = kind.source.partition(":")
    try:
        source: Callable[[QuantSpec], Observer] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"observer {kind.name!r} is not at {kind.source!r}: {error}. Register it again.") from error
    return source
