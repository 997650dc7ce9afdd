"""Observers of smallest and largest values: of all, averaged, or of each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sensitivity.quantize.observers import Bounds, CheckedObserver
from sensitivity.quantize.scales import find_axis
from sensitivity.records import QuantSpec


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
