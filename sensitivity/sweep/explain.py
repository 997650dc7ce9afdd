"""What a sweep will cost, from a short probe: nothing is scored, nothing is kept."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sensitivity.contracts import Task
from sensitivity.errors import TaskError
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.restore import untouched
from sensitivity.sweep.forward import Forward
from sensitivity.sweep.passes import predict, unchanged_inputs
from sensitivity.sweep.plan import Variant

PROBED = 8  # variants, spread over the model


@dataclass(frozen=True)
class Explanation:
    """What a sweep will cost in this process, without a stop.

    Attributes:
        variants: Disturbed models to measure.
        images: Images of the task.
        batch_images: Images of the batch that was probed.
        pass_s: Seconds that the undisturbed model takes for all images.
        passes: Cost of the whole sweep in passes of the undisturbed model over all images.
        naive_passes: The same without replay: one for each variant, and one.
        seconds: Expected time of the sweep; scoring is counted once for each variant.
        kept_bytes: Bytes that replay keeps of one batch.
        notes: What else matters, e.g. why passes are run in full.
    """

    variants: int
    images: int
    batch_images: int
    pass_s: float
    passes: float
    naive_passes: int
    seconds: float
    kept_bytes: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.variants} variants on {self.images} images: about {_duration(self.seconds)} in this process",
            f"{self.passes:.1f} passes over the data instead of {self.naive_passes}, {_duration(self.pass_s)} each",
            f"replay keeps {self.kept_bytes / 2**20:.0f} MiB for a batch of {self.batch_images}",
        ]
        return "\n".join([*lines, *self.notes])


def explain(
    model: nn.Module, task: Task, variants: Sequence[Variant], disturber: Disturber, *, memory_limit: int | None = None
) -> Explanation:
    """Run the first batch undisturbed and in some variants, and tell what all of it will take.

    Args:
        model: The model; left as it was.
        task: Data and metric.
        variants: What is to be measured.
        disturber: Applies the variants to this model.
        memory_limit: Bytes that a recorded pass may keep; None for no limit.

    Raises:
        TaskError: If the task has no images.
        CalibrationError: If a recipe quantizes activations and no ranges fit it.
    """
    batch = next(iter(task.batches()), None)
    if batch is None:
        raise TaskError(f"{task.name} has no images: there is nothing to run.")
    probed = variants[:: max(1, math.ceil(len(variants) / PROBED))]
    run = unchanged_inputs(functools.partial(predict, task, model, batch), batch)
    with untouched(model), torch.no_grad():
        forward = Forward(model, disturber, replay=True, memory_limit=memory_limit)
        predictions = run()  # the first one allocates
        plain_s = _seconds(run)
        recipes = [variant.recipes for variant in variants]
        forward.baseline(run, recipes)  # checks replay on some variants
        record_s = _seconds(lambda: forward.baseline(run, recipes))
        kept = forward.replayer.kept_bytes if forward.replayer else 0
        each_s = [_seconds(functools.partial(forward.variant, run, variant.recipes)) for variant in probed]
    score_s = _seconds(lambda: task.score(dict(zip(batch.images, predictions, strict=True))))
    share = len(task) / len(batch.images)
    of_batch_s = record_s + sum(each_s) / len(each_s) * len(variants)
    return Explanation(
        variants=len(variants),
        images=len(task),
        batch_images=len(batch.images),
        pass_s=plain_s * share,
        passes=of_batch_s / plain_s,
        naive_passes=len(variants) + 1,
        seconds=share * (of_batch_s + score_s * len(variants)),
        kept_bytes=kept,
        notes=tuple(forward.notes),
    )


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
