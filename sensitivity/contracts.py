"""What outsiders may bring: a task, a store, an executor, an engine, an observer, a connector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn


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
class ScoresPart(Protocol):
    """What a ``Task`` may have besides: its predictions hold more than is scored, and a sweep keeps that part alone."""

    def scored_part(self, prediction: Any) -> Any:
        """A prediction without what ``score`` and the others here do not look at; the one given is not changed."""


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


@runtime_checkable
class Store(Protocol):
    """Where the results of a sweep are kept, so that it can be stopped and resumed.

    Keys are text, values are trees of dicts, lists, tuples, numpy arrays, numbers, text, bytes and None, which come
    back to the last bit. Nothing is ever changed or removed, and one run at a time uses a store.
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


@runtime_checkable
class Executor(Protocol):
    """What runs functions elsewhere: any of ``concurrent.futures``, or one that looks like them."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Start a call; function and arguments can be pickled."""


@runtime_checkable
class SharesOnce(Protocol):
    """An executor that brings a large value to its workers itself; others are given a file on this machine."""

    def share(self, value: Any) -> Callable[[], Any]:
        """What a worker calls to get the value; it can be pickled."""


FormatChange = Literal["to int8", "to float", "layout"]
"""What an operation does that computes nothing; ``EngineLayer.changes`` says more."""


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One operation as an engine runs it, which may be several nodes of the graph fused into one.

    Attributes:
        name: The engine's own name of the operation.
        nodes: Names of the graph's nodes that it runs; a convolution's node bears the module path of its layer.
        precision: What it computes in: ``int8``, ``fp8``, ``fp16``, ``bf16``, ``fp32``, or the engine's own word.
        time_s: Time of one run in seconds, the median or mean of several, or None where the engine does not tell.
        reads: Names of the operations whose outputs it reads; empty where the engine does not tell.
        changes: What it does where it computes nothing and only turns a tensor into another form: ``to int8`` (or
            uint8) from float, ``to float`` from int8, or its ``layout`` in memory; None for all other operations.
    """

    name: str
    nodes: tuple[str, ...]
    precision: str
    time_s: float | None = None
    reads: tuple[str, ...] = ()
    changes: FormatChange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCapabilities:
    """What an engine can run; the defaults hold for every engine that reads Q/DQ as ONNX defines it.

    Attributes:
        weight_formats: Names of number formats of weights; None for every one whose codes int8 holds.
        weight_granularities: How many weights share a scale: ``per-tensor``, ``per-channel``.
        activation_formats: The same of activations; None for every one that fills int8 or uint8.
        affine_activations: Whether activations may have a zero point other than 0.
        depthwise_channel_activations: Whether a depthwise convolution runs in int8 with a scale for each channel of its
            input (QuantizeLinear with an axis). No engine known runs other layers so.
        rests: Precisions in which it can compute what is not quantized. An engine with others than ``fp32`` is built
            with the keyword ``rest=`` where a scheme asks for one of them.
        runs_written_types: Whether it computes every node in the types that the graph has there. Half precision is
            then written into the graph that it is built of, with what stays in fp32 between casts, and ``rest=`` is not
            given.
        rounds_every_node: Whether it rounds what every node writes to the type that is written there; an engine that
            fuses nodes keeps fp32 in between.
        keeps_fp32: Whether it computes marked modules in fp32 where the other layers are in half precision.
        times_layers: Whether ``layer_info`` tells the time of every operation once the engine has run.
        takes_threads: Whether it runs on the CPU and is built with the keyword ``threads=``, a number of threads.
        saturates: Whether large sums of 8-bit products are cut off on this machine, as on an x86 CPU without VNNI;
            None where only a trial can tell: ``sensitivity.deploy.doctor.saturation.capabilities_here``.
    """

    weight_formats: tuple[str, ...] | None = None
    weight_granularities: tuple[str, ...] = ("per-tensor", "per-channel")
    activation_formats: tuple[str, ...] | None = None
    affine_activations: bool = True
    depthwise_channel_activations: bool = False
    rests: tuple[str, ...] = ("fp32",)
    runs_written_types: bool = False
    rounds_every_node: bool = False
    keeps_fp32: bool = False
    times_layers: bool = False
    takes_threads: bool = False
    saturates: bool | None = None


@runtime_checkable
class RunsGraph(Protocol):
    """The least that an engine has; what else ``Engine`` asks for gets its default where it is missing.

    Attributes:
        name: Short text: ``openvino``, ``onnxruntime``, ``torch``, ``tensorrt``.
    """

    name: str

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        """All outputs of the graph, in its order, as numpy arrays.

        Args:
            inputs: One float array for each input of the graph, in its order.

        Raises:
            EngineError: If the number, a shape or a dtype of the inputs is not what the engine was built for.
        """

    def layer_info(self) -> list[EngineLayer]:
        """What was built: every operation with its executed precision, times where the engine was profiled."""

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        """Median time of one run in seconds, after a warm-up."""


@runtime_checkable
class Engine(RunsGraph, Protocol):
    """What runs a deployed graph; a class that inherits from this one has the defaults.

    Attributes:
        version: Version of the package that runs the graph; None where there is none to tell.
        computes_in_float: Whether the engine is a reference that computes int8 layers in float between quantizers, and
            declares it; ``verify`` then compares the codes and does not ask for int8.
        is_simulation: Whether it ignores the graph and runs the simulation itself.
        capabilities: What it can run.
        saturates: Whether large sums of 8-bit products are cut off in this engine on this machine, as on an x86 CPU
            without VNNI. None where nobody asked: ``deploy`` asks, and writes the answer here.
    """

    version: str | None = None
    computes_in_float: bool = False
    is_simulation: bool = False
    capabilities: EngineCapabilities = EngineCapabilities()
    saturates: bool | None = None


@runtime_checkable
class SavesItself(Protocol):
    """What an ``Engine`` may have besides: it is built slowly, and can be kept in a file."""

    def save(self, path: str | Path) -> None:
        """Write the built engine.

        Raises:
            EngineError: If the file cannot be written.
        """


@runtime_checkable
class ProfilesLayers(Protocol):
    """What an ``Engine`` may have besides: a profiler of its own."""

    def profile(self, *inputs: Any, repeats: int = 20) -> Mapping[str, float]:
        """Seconds of each operation by its name in ``layer_info``, which has them too from then on.

        Args:
            inputs: As for ``run``.
            repeats: Runs, after a warm-up, of which the median is taken, or the mean where only that is told.
        """


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


class Purpose(StrEnum):
    """What a network does with an image."""

    DETECTION = "detection"
    INSTANCES = "instance segmentation"
    KEYPOINTS = "keypoints"
    SEMANTIC = "semantic segmentation"
    PROMPTED = "prompted segmentation"
    CLASSIFICATION = "classification"


@dataclass(frozen=True, eq=False)
class Prompts:
    """What is pointed at in one image: P boxes or P clicks; the other is None.

    Attributes:
        boxes: (P, 4) float64 ``x1, y1, x2, y2`` in original pixels.
        points: (P, 2) float64 ``x, y`` in original pixels, each on the object wanted.
    """

    boxes: npt.NDArray[np.float64] | None = None
    points: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.boxes if self.boxes is not None else self.points if self.points is not None else ())

    def chunks(self, count: int) -> Iterator[Prompts]:
        """The same prompts, at most so many at a time."""
        for start in range(0, len(self), count):
            part = slice(start, start + count)
            yield Prompts(
                boxes=None if self.boxes is None else self.boxes[part],
                points=None if self.points is None else self.points[part],
            )


@dataclass(frozen=True, kw_only=True)
class Connected:
    """A network with what its family puts around it; what a ``Connector`` returns.

    Attributes:
        family: Name of the family, such as ``torchvision``.
        purpose: What it does with an image.
        model: The network, in evaluation mode, from preprocessed batches to raw outputs; what is wrapped.
        example_inputs: One image as ``preprocess`` makes it, of noise: (1, C, h, w).
        preprocess: Makes a float32 tensor (C, h, w) of an image (H, W, 3) uint8 RGB, as the family does.
        adapter: Makes predictions of the model's raw outputs and original sizes, with the family's post-processing;
            None where the outputs are logits of classes; a SAM's is the ``segment`` of ``PromptedMasks``.
        classes: Name of each label from 0 on, where the family knows them; None for names that a label file must bring.
        first_label: The label of the first class: 1 where 0 is the background.
        last_label: The label of the last class, where the family knows it.
        batch_size: Images in a batch: 1 where ``preprocess`` keeps their sizes.
        parts: Where the raw heads end: paths of the submodules in front of the post-processing that ``model`` itself
            does, for ``wrapped.deploy(parts=...)``. An engine then runs these, and the model goes on from their
            outputs. None where the whole model can be exported, as its outputs are raw and ``adapter`` does the rest.
        naming: Names layers by the family's own division, for ``sv.wrap(naming=...)``: the backbone, neck and head of
            a YOLO, say. None where the module paths tell it.
    """

    family: str
    purpose: Purpose
    model: nn.Module
    example_inputs: Tensor
    preprocess: Callable[[Any], Tensor]
    adapter: Callable[..., Any] | None = None
    classes: tuple[str, ...] | None = None
    first_label: int = 0
    last_label: int | None = None
    batch_size: int = 1
    parts: tuple[str, ...] | None = None
    naming: Callable[[Sequence[str]], Sequence[tuple[str, int] | None]] | None = None

    def labels_in(self, categories: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        """Category id of each label in a COCO annotation file with these categories.

        By name, where the network knows the names of all of the file's categories. Otherwise a label that counts from 1
        up to the file's largest id is an id itself, as in networks that were trained on ids with gaps; and if neither,
        labels count the ids in ascending order.
        """
        ids = {str(category.get("name")): int(category["id"]) for category in categories}
        if self.classes and set(ids) <= set(self.classes):
            return {label: ids[name] for label, name in enumerate(self.classes) if name in ids}
        ordered = sorted(int(category["id"]) for category in categories)
        if self.first_label == 1 and self.last_label == ordered[-1]:
            return {number: number for number in ordered}
        return dict(enumerate(ordered, self.first_label))


@runtime_checkable
class Connector(Protocol):
    """What puts around a network what its family puts around it: a function that ``register_connector`` knows.

    Its keyword parameters are the family's settings, which ``sv.connect`` hands on. It changes nothing of the network
    but its mode, and imports the family's package inside itself only. ``testing.connectors.ConnectorSuite`` checks what
    it returns.
    """

    def __call__(self, model: Any, /, *args: Any, **settings: Any) -> Connected:
        """Connect a network.

        Args:
            model: A network of the family.
            args: None; every setting has a name.
            settings: The family's own.

        Raises:
            ModelError: If the network is none that this connector knows.
            TaskError: If a setting is out of range.
        """
