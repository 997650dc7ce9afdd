"""What may be given as images (a task, batches, single images), as passes of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sensitivity.contracts import Task
from sensitivity.errors import CalibrationError
from sensitivity.layers.batches import batches_like, explaining
from sensitivity.layers.inputs import on_device_of


def runs_on(
    model: nn.Module, images: Task | Iterable[Any], example_inputs: Any
) -> Iterator[tuple[Callable[[], Any], int]]:
    """The model on each batch of images: a function that runs it, and the number of images.

    Args:
        model: Is run as a task runs it, or by itself on preprocessed images.
        images: A task, or batches or single images as tensors, tuples or dicts.
        example_inputs: What the model accepts.

    Raises:
        CalibrationError: If these are no images, or, when one of the functions is called, none that the model takes.
    """
    if isinstance(images, Task):
        for batch in images.batches():
            yield partial(images.predict, model, batch), len(batch.images)
        return
    for args, kwargs, count in batches_like(check_images(images), example_inputs):
        args, kwargs = on_device_of(model, (args, kwargs))
        yield explaining(partial(model, *args, **kwargs), (args, kwargs), example_inputs), count


def check_images(images: Iterable[Any]) -> Iterable[Any]:
    """The images; what cannot be gone through, and a path, are refused.

    Raises:
        CalibrationError: If it is one of these.
    """
    if isinstance(images, (str, Path)):
        raise CalibrationError(f"images must be tensors or a task, not the path {str(images)!r}. Load them first.")
    if not isinstance(images, Iterable) or isinstance(images, type) or getattr(images, "ndim", 1) == 0:
        raise CalibrationError(
            f"images={images!r:.80}: give a task, or preprocessed images as tensors, tuples or dicts in a list."
        )
    return images
