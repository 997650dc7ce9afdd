"""An observer: what sees a tensor and says which range of values to hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Observer(Protocol):
    """What sees one tensor of a model on every calibration image, and then says which range of values to hold.

    A class that ``register_observer`` knows is called with the ``QuantSpec`` of the tensor and gives a fresh observer.
    What an observer keeps depends neither on the number of images nor on the size of the tensors. Images are the
    elements of a tensor's first axis; how they were divided into batches makes no difference to the range.
    ``testing.observers.ObserverSuite`` checks all of this.
    """

    def observe(self, x: Tensor) -> None:
        """Take a tensor into account.

        Args:
            x: Floating-point tensor of any shape and device, not changed and not kept; it may be without elements.

        Raises:
            CalibrationError: If it holds NaN or infinite values; an observer may say so later, in ``range``.
        """

    def merge(self, other: Any) -> None:
        """Take what another observer has seen into account, as if it had been seen here, and last.

        Args:
            other: An observer of the same class, made for the same spec; not changed.
        """

    def state(self) -> dict[str, Any]:
        """Everything it knows, as a tree that a ``Store`` keeps."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Know what another observer of the same spec knew when its ``state`` was taken, and nothing else."""

    def range(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of the values to be held: float32, () per tensor or (C,) per channel.

        It can be asked at any time, and more may be observed afterwards.

        Raises:
            CalibrationError: If no value was observed, or one was not finite.
        """


@runtime_checkable
class RangesRows(Protocol):
    """What an ``Observer`` may have besides: the ranges of many rows of a weight at once, without observing them."""

    def rows_range(self, rows: Tensor, *, narrow: bool) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds, each (R,); without this method every row is observed by an observer of its own.

        Args:
            rows: Finite float32 (R, L): the elements of a weight that share a scale, in rows.
            narrow: Whether the lowest code of a symmetric signed integer format will be left out.
        """
