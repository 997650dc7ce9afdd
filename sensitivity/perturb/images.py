"""What may be given as images (a task, batches, single images), as passes of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sensitivity.contracts import Task
from sensitivity.errors import CalibrationError
from sensitivity.layers.inputs import batches_like, on_device_of


def runs_on(
    model: nn.Module, images: Task | Iterable[Any], example_inputs: Any
) -> Iterator[tuple[Callable[[], Any], int]]:
    """The model on each batch of images: a function that runs it, and the number of images.

    Args:
        model: Is run as a task runs it, or by itself on preprocessed images.
        images: A task, or batches or single images as tensors, tuples or dicts.
        example_inputs: What the model accepts.

    Raises:
        CalibrationError: If these are no images.
    """
    if isinstance(images, Task):
        for batch in images.batches():
            yield partial(images.predict, model, batch), len(batch.images)
        return
    for args, kwargs, count in batches_like(not_a_path(images), example_inputs):
        args, kwargs = on_device_of(model, (args, kwargs))
        yield partial(model, *args, **kwargs), count


def not_a_path(images: Iterable[Any]) -> Iterable[Any]:
    """The images; a path of some is refused.

    Raises:
        CalibrationError: If it is a path.
    """
    if isinstance(images, (str, Path)):
        raise CalibrationError(f"images must be tensors or a task, not the path {str(images)!r}. Load them first.")
    return images
