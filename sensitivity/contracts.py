"""What outsiders may bring: a task or a store today; observers, engines and executors as their rooms are built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Batch:
    """Some images, ready for the model.

    Attributes:
        inputs: Positional arguments of the model's forward, usually one float tensor (N, C, H, W).
        images: Position of each of the N images in the task's data set, in the order of the batch.
        context: Whatever the task needs to turn outputs into predictions, e.g. original image sizes.
    """

    inputs: tuple[Any, ...]
    images: tuple[int, ...]
    context: Any = None


@runtime_checkable
class NeedsReference(Protocol):
    """A task that scores a model against the undisturbed one; the sweep gives it the reference before it starts.

    Attributes:
        needs_reference: Whether ``with_reference`` has yet to be called.
    """

    @property
    def needs_reference(self) -> bool:
        """Whether ``with_reference`` has yet to be called."""

    def with_reference(self, model: Callable[..., Any]) -> Task:
        """The same task with what this model computes as the reference."""


@runtime_checkable
class Task(Protocol):
    """Data and a metric: what "good" means.

    A task knows nothing of quantization. A prediction is a tree of dicts, lists, numpy arrays, numbers and text, one
    for each image, so that predictions of disturbed models can be compared, kept and scored later.

    Attributes:
        name: Short text for titles.
        metric: Name of the metric that layers are judged by, a key of what ``score`` returns.
        unit: Unit for people; ``%`` means that scores are fractions.
        higher_is_better: Whether a larger metric is a better model.
    """

    name: str
    metric: str
    unit: str
    higher_is_better: bool

    def __len__(self) -> int:
        """Number of images."""

    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """The data in batches, in a fixed order.

        Args:
            images: Positions of the images wanted, in this order; None for all.
        """

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        """Run the model on a batch: one prediction for each image of it.

        Args:
            model: Called with ``*batch.inputs``.
            batch: One of ``batches``.
        """

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """Every metric over the images predicted.

        Args:
            predictions: Position of the image to its prediction; the metric is over these images alone.
        """

    def digest(self) -> str:
        """Hash of data and settings: two tasks with the same digest give the same scores."""


@runtime_checkable
class Store(Protocol):
    """Where the results of a sweep are kept, so that it can be stopped and resumed.

    Keys are text, values are trees of dicts, lists, tuples, numpy arrays, numbers and text, which come back to the last
    bit. Nothing is ever changed or removed, and one run at a time uses a store.
    """

    def __contains__(self, key: str) -> bool:
        """Whether there is a value."""

    def read(self, key: str) -> Any:
        """The value of a key that is in the store.

        Raises:
            KeyError: If it is not.
        """

    def add(self, key: str, value: Any) -> None:
        """Keep a value, for good when this returns; a key that is in the store keeps its first one.

        Raises:
            StoreError: If that is not possible; then everything added before is still there.
        """
