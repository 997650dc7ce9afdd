"""Passes of a model whose own outputs are looked at: for signals and estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from torch import nn

from sensitivity.contracts import Batch, Task
from sensitivity.layers.trace.inputs import copied, on_device_of, unchanged_inputs
from sensitivity.perturb.calibration.images import Pass, passes_of
from sensitivity.sweep.signals.outputs import outputs_inside


def output_passes(model: nn.Module, images: Task | Iterable[Any], example_inputs: Any) -> Iterator[Pass]:
    """Passes that give the model's own outputs.

    Args:
        model: Is run by itself; as the task runs it where the task's batches hold no inputs.
        images: A task, or batches or single images as tensors, tuples or dicts.
        example_inputs: What the model accepts.

    Raises:
        CalibrationError: If these are no images, or, when one of the functions is called, none that the model takes.
    """
    return passes_of(model, images, example_inputs, of_task=_by_itself, prepared=copied)


def _by_itself(model: nn.Module, task: Task, batch: Batch) -> Callable[[], Any]:
    if not batch.inputs and not batch.keywords:
        return partial(outputs_inside, model, task, batch)
    args, keywords = copied(on_device_of(model, (batch.inputs, dict(batch.keywords))))  # autograd refuses some as given
    return unchanged_inputs(partial(model, *args, **keywords), (args, keywords))
