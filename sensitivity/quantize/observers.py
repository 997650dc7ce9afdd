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

import torch
from torch import Tensor

from sensitivity.contracts import Observer
from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.scales import check_range
from sensitivity.records import QuantSpec
from sensitivity.records.recipes.observers import ObserverKind, find_observer, observers_that

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
