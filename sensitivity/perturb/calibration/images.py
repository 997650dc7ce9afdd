"""What may be given as images (a task, batches, single images, a loader), as passes of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from sensitivity.contracts import Batch, Task
from sensitivity.errors import CalibrationError
from sensitivity.layers.batches import batches_like, explaining
from sensitivity.layers.trace.inputs import on_device_of, unchanged_inputs

RunOfTask: TypeAlias = Callable[[nn.Module, Task, Batch], Callable[[], Any]]


class Pass(NamedTuple):
    """A batch that a model can be run on.

    Attributes:
        run: Runs the model.
        images: Number of images in the batch.
        item: The batch as it was given: a task's ``Batch``, or an item of the images.
    """

    run: Callable[[], Any]
    images: int
    item: Any


def predicting(model: nn.Module, task: Task, batch: Batch) -> Callable[[], Any]:
    """The model as the task runs it, with all that the task makes of its outputs."""
    return partial(task.predict, model, batch)


def _unchanged(inputs: Any) -> Any:
    return inputs


def passes_of(
    model: nn.Module,
    images: Task | Iterable[Any],
    example_inputs: Any,
    *,
    of_task: RunOfTask = predicting,
    prepared: Callable[[Any], Any] = _unchanged,
) -> Iterator[Pass]:
    """The model on each batch of images.

    Every call of this library that takes images reads them here, so that all of them accept the same.

    Args:
        model: Is run as a task runs it, or by itself on preprocessed images.
        images: A task, or batches or single images as tensors, tuples or dicts.
        example_inputs: What the model accepts.
        of_task: How a batch of a task is run.
        prepared: Called with the arguments of the model where there is no task.

    Raises:
        CalibrationError: If these are no images, or, when one of the functions is called, none that the model takes.
    """
    if isinstance(images, Task):
        for batch in images.batches():
            yield Pass(unchanged_inputs(of_task(model, images, batch), batch), len(batch.images), batch)
        return
    for args, kwargs, count, item in batches_like(check_images(images), example_inputs):
        args, kwargs = prepared(on_device_of(model, (args, kwargs)))
        run = unchanged_inputs(partial(model, *args, **kwargs), (args, kwargs))
        yield Pass(explaining(run, (args, kwargs), example_inputs), count, item)


def check_images(images: Iterable[Any]) -> Iterable[Any]:
    """The images; what cannot be gone through, a path, and a dict are refused.

    Raises:
        CalibrationError: If it is one of these.
    """
    if isinstance(images, (str, Path)):
        raise CalibrationError(f"images must be tensors or a task, not the path {str(images)!r}. Load them first.")
    if isinstance(images, Mapping):
        raise CalibrationError(
            f"images is a {type(images).__name__} with the keys {', '.join(map(repr, images))}, not several "
            "batches. Put a single batch into a list."
        )
    if not isinstance(images, Iterable) or isinstance(images, type) or getattr(images, "ndim", 1) == 0:
        raise CalibrationError(
            f"images={images!r:.80}: give a task, or preprocessed images as tensors, tuples or dicts in a list."
        )
    return images
