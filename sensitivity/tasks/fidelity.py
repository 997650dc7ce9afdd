"""How much of a model's output survives a perturbation, without any labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from sensitivity.contracts import Batch
from sensitivity.contracts.task import arguments_of
from sensitivity.errors import PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.records.decibels import CEILING_DB, decibels
from sensitivity.tasks.datasets import as_array, check_batch_size, choose_positions, predicted_positions, run_on
from sensitivity.tasks.fingerprint import fingerprint
from sensitivity.tasks.images.samples import leaves, with_own_tensors
from sensitivity.weights import weights_digest

Floats = npt.NDArray[np.float64]


class FeatureFidelity:
    """Signal-to-quantization-noise ratio of the model's outputs against the same model unperturbed.

    The unperturbed outputs are to this task what annotations are to others, so they are part of it: ``with_reference``
    runs the model once over all inputs and keeps its outputs. Every floating-point tensor that the model returns,
    however deep in dicts, lists, tuples or dataclasses, is part of one long vector: large numbers weigh more.

    Args:
        inputs: Images as the model takes them: a tensor (N, ...), or a sequence of N tensors without batch dimension.
            For a model that takes several arguments a sequence of tuples (positional arguments) or dicts (keyword
            arguments), each with the batch dimension, as calibration takes them; each is one input of the task.
        batch_size: Inputs in a batch; with more than 1 the first dimension of every output must be the batch. Tuples
            and dicts are run one by one.
        name: Short text for titles.

    Raises:
        TaskError: If there are no inputs, or they are no tensors, and no tuples or dicts with tensors.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> task = FeatureFidelity(torch.rand(4, 3)).with_reference(model)
        >>> predictions = {i: p for batch in task.batches() for i, p in zip(batch.images, task.predict(model, batch))}
        >>> task.score(predictions)["sqnr_db"]
        150.0
    """

    metric = "sqnr_db"
    unit = "dB"
    higher_is_better = True

    @checked(TaskError)
    def __init__(
        self,
        inputs: torch.Tensor | Sequence[torch.Tensor | tuple[Any, ...] | Mapping[str, Any]],
        *,
        batch_size: int = 8,
        name: str = "output fidelity",
    ) -> None:
        if isinstance(inputs, torch.Tensor) and not inputs.dim():
            raise TaskError(f"inputs={inputs!r} holds no images. Give a tensor (N, ...), or one tensor an image.")
        self._inputs = list(inputs)
        self._takes_arguments = bool(self._inputs) and not isinstance(self._inputs[0], torch.Tensor)
        self._batch_size = 1 if self._takes_arguments else check_batch_size(batch_size)
        _check_inputs(self._inputs, self._batch_size)
        self.name = name
        self._reference: list[Floats] | None = None
        self._reference_model: tuple[str, ...] = ()

    @checked(TaskError)
    def with_reference(self, model: Callable[..., Any]) -> Self:
        """The same task with the outputs of this model as the reference; the model is run in its present state.

        Args:
            model: Unperturbed, in eval mode. Gradients are off while it runs.

        Raises:
            PredictionError: If it returns no floating-point tensor, or numbers that are not finite.
        """
        task = type(self)(self._inputs, batch_size=self._batch_size, name=self.name)
        task._reference_model = tuple(_identity(model))
        with torch.no_grad():
            task._reference = [output for batch in self.batches() for output in self._outputs(model, batch)]
        return task

    @property
    def needs_reference(self) -> bool:
        """Whether ``with_reference`` has yet to be called."""
        return self._reference is None

    def __len__(self) -> int:
        return len(self._inputs)

    @checked(TaskError)
    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """The inputs in batches.

        Args:
            images: Positions wanted, in this order; None for all.

        Raises:
            TaskError: If there is no input at a position.
        """
        positions = choose_positions(images, len(self))
        starts = range(0, len(positions), self._batch_size)
        return (self._batch(positions[start : start + self._batch_size]) for start in starts)

    @checked(TaskError)
    def predict(self, model: Callable[..., Any], batch: Batch) -> list[dict[str, float]]:
        """One prediction for each input of the batch; the caller turns gradients off.

        Args:
            model: Called with the batch's tensor, on its own device.
            batch: One of ``batches``.

        Returns:
            For each input ``signal``, the sum of squares of its reference, and ``noise``, that of the difference to it.

        Raises:
            TaskError: If there is no reference.
            PredictionError: If the outputs have another size than the reference, or are not finite.
        """
        if self._reference is None:
            raise TaskError("this task has no reference to compare with. Use task.with_reference(unperturbed_model).")
        outputs = self._outputs(model, batch)
        return [_energies(self._reference[image], output) for image, output in zip(batch.images, outputs, strict=True)]

    @checked(TaskError)
    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """The SQNR over the inputs predicted, in dB; 10 log10 of signal over noise, at most ``CEILING_DB``.

        ``sqnr_db`` takes signal and noise of all inputs together, ``mean_sqnr_db`` is the mean of the inputs' own SQNR.
        Where there is no noise it is ``CEILING_DB``, so that drops stay finite; where there is noise but no signal,
        minus ``CEILING_DB``. Equal to the formula in numpy (float64) to 12 digits.

        Args:
            predictions: Position of the input to its prediction.

        Raises:
            TaskError: If there is no prediction, or no input at a position.
        """
        predicted_positions(predictions, len(self))
        signal = [float(prediction["signal"]) for prediction in predictions.values()]
        noise = [float(prediction["noise"]) for prediction in predictions.values()]
        each = [decibels(*energies, ceiling=CEILING_DB) for energies in zip(signal, noise, strict=True)]
        whole = decibels(sum(signal), sum(noise), ceiling=CEILING_DB)
        return {"sqnr_db": whole, "mean_sqnr_db": float(np.mean(each))}

    def digest(self) -> str:
        """Hash of the inputs and of the weights and buffers of the reference's model.

        No number that the model computed is in it: those differ in the last bit between machines and batch sizes.
        """
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        inputs = (
            leaves(self._inputs)
            if self._takes_arguments
            else [part for image in self._inputs for part in _described(as_array(image.double()))]
        )
        return fingerprint([kind, *inputs, "reference", *self._reference_model])

    def _batch(self, positions: tuple[int, ...]) -> Batch:
        if self._takes_arguments:
            args, keywords = arguments_of(with_own_tensors(self._inputs[positions[0]]))
            return Batch(inputs=args, images=positions, keywords=keywords)
        return Batch(inputs=(torch.stack([self._inputs[position] for position in positions]),), images=positions)

    def _outputs(self, model: Callable[..., Any], batch: Batch) -> list[Floats]:
        """All outputs for each image of the batch, as one vector."""
        tensors = list(_tensors(run_on(model, batch)))
        count = len(batch.images)
        if not tensors:
            raise PredictionError("the model returned no floating-point tensor to compare.")
        if count > 1 and any(tensor.ndim == 0 or len(tensor) != count for tensor in tensors):
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise PredictionError(f"outputs {shapes} cannot be told apart for {count} inputs. Use batch_size=1.")
        arrays = [as_array(tensor.double()).reshape(count, -1) for tensor in tensors]
        joined = np.concatenate(arrays, axis=1)
        if not np.isfinite(joined).all():
            raise PredictionError("outputs are NaN or infinite. The model, as perturbed, may have overflowed.")
        return list(joined)


def _check_inputs(inputs: Sequence[Any], batch_size: int) -> None:
    """Refuse inputs that are none, that cannot be stacked, and that hold no numbers.

    Raises:
        TaskError: If there is one of these.
    """
    held = [list(_tensors(image, of_any_type=True)) for image in inputs]
    kinds = {isinstance(image, torch.Tensor) for image in inputs}
    if len(kinds) != 1 or not all(held) or not all(isinstance(i, torch.Tensor | tuple | Mapping) for i in inputs):
        raise TaskError(
            "inputs= holds no tensors. Give a tensor (N, ...) or a sequence of tensors, one an image; for a model that "
            "takes several arguments a sequence of tuples or dicts of them, each with the batch dimension."
        )
    for position, tensors in enumerate(held):
        _check_finite(tensors, position)
    if kinds == {True}:
        _check_one_size(inputs, batch_size)


def _check_one_size(inputs: Sequence[torch.Tensor], batch_size: int) -> None:
    """Refuse images that cannot be stacked.

    Raises:
        TaskError: If there are some, and they come in batches.
    """
    kinds = sorted({f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}" for image in inputs})
    if len(kinds) > 1 and batch_size > 1:
        raise TaskError(
            f"inputs= holds images of {len(kinds)} kinds, e.g. {kinds[0]} and {kinds[1]}, which do not fit into one "
            "batch. Use batch_size=1, or bring them to one size."
        )


def _check_finite(tensors: Sequence[torch.Tensor], position: int) -> None:
    """Refuse NaN and infinity; among several arguments a mask of attention may hold -infinity.

    Raises:
        TaskError: If there is one.
    """
    for image in tensors:
        is_bad = image.isnan() if len(tensors) > 1 else ~image.isfinite()
        if image.is_floating_point() and bool(is_bad.any()):
            raise TaskError(
                f"inputs[{position}], a tensor of shape {tuple(image.shape)}, holds NaN or infinite values. Check how "
                "the images are loaded and preprocessed."
            )


def _described(array: Floats) -> tuple[str, bytes]:
    return str(array.shape), array.tobytes()


def _identity(model: Callable[..., Any]) -> Iterator[str]:
    """What tells a model from others: its class, and a hash of its parameters and buffers."""
    owner = model if hasattr(model, "__qualname__") else type(model)
    yield f"{owner.__module__}.{owner.__qualname__}"
    if isinstance(model, torch.nn.Module):
        yield weights_digest(model)


def _tensors(tree: Any, *, of_any_type: bool = False) -> Iterator[torch.Tensor]:
    """Floating-point tensors, or all, depth first."""
    if isinstance(tree, torch.Tensor):
        if of_any_type or tree.is_floating_point():
            yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value, of_any_type=of_any_type)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value, of_any_type=of_any_type)
    elif is_dataclass(tree) and not isinstance(tree, type):
        for field in fields(tree):
            yield from _tensors(getattr(tree, field.name), of_any_type=of_any_type)


def _energies(reference: Floats, output: Floats) -> dict[str, float]:
    if reference.shape != output.shape:
        raise PredictionError(
            f"outputs have {output.size} numbers, the reference has {reference.size}. Compare outputs of a fixed size, "
            "before post-processing that keeps a varying number of objects."
        )
    return {"signal": float(np.square(reference).sum()), "noise": float(np.square(reference - output).sum())}
