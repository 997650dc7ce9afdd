"""Passes of a model whose own outputs are looked at: for signals and screens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from torch import nn

from sensitivity.contracts import Task
from sensitivity.layers.batches import batches_like, explaining
from sensitivity.layers.inputs import on_device_of
from sensitivity.perturb.images import check_images
from sensitivity.sweep.signals.estimated import ready_for_autograd
from sensitivity.sweep.signals.outputs import outputs_inside


def output_passes(
    model: nn.Module, images: Task | Iterable[Any], example_inputs: Any
) -> Iterator[tuple[Callable[[], Any], int, Any]]:
    """One item a batch: a function that gives the model's outputs, the number of images, and the batch as given.

    Args:
        model: Is run by itself; as the task runs it where the task's batches hold no inputs.
        images: A task, or batches or single images as tensors, tuples or dicts.
        example_inputs: What the model accepts.

    Raises:
        CalibrationError: If these are no images, or, when one of the functions is called, none that the model takes.
    """
    if isinstance(images, Task):
        for batch in images.batches():
            inputs = ready_for_autograd(on_device_of(model, batch.inputs))
            own = partial(model, *inputs) if inputs else partial(outputs_inside, model, images, batch)
            yield own, len(batch.images), batch
        return
    for item in check_images(images):
        for args, kwargs, count in batches_like([item], example_inputs):
            args, kwargs = ready_for_autograd(on_device_of(model, (args, kwargs)))
            yield explaining(partial(model, *args, **kwargs), (args, kwargs), example_inputs), count, item
