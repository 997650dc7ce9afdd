"""A task: data and a metric, and what it may tell besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Batch:
    """Some images, ready for the model.

    Attributes:
        inputs: Positional arguments of the model's forward, usually one float tensor (N, C, H, W).
        images: Position of each of the N images in the task's data set, in the order of the batch.
        context: Whatever the task needs to turn outputs into predictions, e.g. original image sizes.
        keywords: Keyword arguments of the model's forward.
    """

    inputs: tuple[Any, ...]
    images: tuple[int, ...]
    context: Any = None
    keywords: Mapping[str, Any] = field(default_factory=dict)


def arguments_of(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward pass.

    Args:
        example_inputs: A tuple gives positional arguments, a dict with text keys keyword arguments, anything else
            (a tensor, a list of images) is the one positional argument.
    """
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    if isinstance(example_inputs, Mapping) and all(isinstance(key, str) for key in example_inputs):
        return (), dict(example_inputs)
    return (example_inputs,), {}


@runtime_checkable
class NeedsReference(Protocol):
    """A task that scores a model against the unperturbed one; the sweep gives it the reference before it starts.

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
    for each image, so that predictions of perturbed models can be compared, kept and scored later.

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
            model: Called with ``*batch.inputs, **batch.keywords``.
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
class MeanOfInstances(Protocol):
    """What a ``Task`` may have besides: its metric is a mean over instances, so that a drop is known on few images."""

    def instances(self) -> Sequence[int] | None:
        """(N,) number of instances in each image; None where the metric that was chosen is no mean."""

    def instance_sum(self, prediction: Any) -> float:
        """Sum of the metric over the instances of one image, as a fraction each where the unit is ``%``."""


@runtime_checkable
class LeavesOut(Protocol):
    """What a ``Task`` may have besides: it scores all images but some, many times over, faster than ``score`` does."""

    def scores_without(self, predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]) -> list[float]:
        """The metric over the images predicted less each group of them; the same number as ``score`` gives."""


@runtime_checkable
class MeanOverKinds(Protocol):
    """What a ``Task`` may have besides: its metric is a mean over kinds of objects, some of which are rare.

    AP or IoU of a kind that few images show is not what it is with many, so that the metric depends on how many images
    there are. Intervals then allow for that as well. A task without it says that no such kinds matter.
    """

    def images_by_kind(self, predictions: Mapping[int, Any]) -> Sequence[int] | None:
        """How many of the images predicted show each kind, 0 for one that only other images of the task show.

        None where the metric is no mean over kinds, or they are not known.
        """


@runtime_checkable
class ScoresPart(Protocol):
    """What a ``Task`` may have besides: its predictions hold more than is scored, and a sweep keeps that part alone."""

    def scored_part(self, prediction: Any) -> Any:
        """A prediction without what ``score`` and the others here do not look at; the one given is not changed."""


@runtime_checkable
class Condenses(Protocol):
    """What a ``Task`` may have besides: it knows predictions that are scored alike and take less room in a store."""

    def condensed(self, predictions: Mapping[int, Any]) -> dict[int, Any]:
        """Other predictions that ``score`` and the others here cannot tell from these; these are not changed.

        Args:
            predictions: Position of the image to the prediction of a perturbed model, reduced to its scored part.
        """


@dataclass(frozen=True, slots=True, eq=False)
class ShownImage:
    """An image as people look at it.

    Attributes:
        name: Its file, or what the task calls it.
        pixels: (H, W, 3) uint8, RGB.
        answer: The true class of the whole image; empty where the task has no such class.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    answer: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a model says about one image, as people look at it; each part is empty where the task has none.

    Attributes:
        boxes: (N, 4) ``x1, y1, x2, y2`` in pixels of the picture, the best first.
        labels: Name of the class of each box.
        scores: The model's confidence in each box.
        answer: The class of the whole image.
        pixels: (H, W) class or object of each pixel; None where the task knows no pixels.
    """

    boxes: Any = ()
    labels: Sequence[str] = ()
    scores: Any = ()
    answer: str = ""
    pixels: npt.NDArray[Any] | None = None


@runtime_checkable
class ShowsImages(Protocol):
    """What a ``Task`` may have besides: it shows its images, and what a model says about them."""

    def picture(self, position: int) -> ShownImage:
        """The image at a position of the data set, as it was before preprocessing."""

    def seen(self, model: Callable[..., Any], batch: Batch) -> Sequence[Seen]:
        """What the model says about each image of a batch; the arguments are those of ``predict``."""


@runtime_checkable
class StaysInProcess(Protocol):
    """What a ``Task`` may have besides: it says that it runs only in the process that made it.

    Attributes:
        stays_in_process: Whether it does, e.g. because it counts its calls or holds a connection. Workers that a sweep
            starts by itself (``workers="auto"``) are copies of that process, and what they change is lost.
    """

    stays_in_process: bool


@runtime_checkable
class LooksAtPredictions(Protocol):
    """What a ``Task`` may have besides: it tells predictions that cannot have been meant, such as boxes in 0..1."""

    def suspicion(self, predictions: Mapping[int, Any]) -> str | None:
        """What is wrong with the predictions of an unperturbed model, for a person; None if nothing is seen.

        It depends on the predictions alone, takes little time, and says nothing of a model that is only weak.

        Args:
            predictions: Position of the image to its prediction, of the first few images.
        """
