"""The sweep: one pass over the data, batches outside, layers inside."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from sensitivity.contracts import Batch, Task
from sensitivity.errors import TaskError
from sensitivity.layers.inputs import tensors_in
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.restore import untouched
from sensitivity.records import Measurement, Score
from sensitivity.sweep.forward import Forward, Run
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.predictions import same
from sensitivity.sweep.replay import version_of

OnError = Literal["record", "raise"]
Watcher = Callable[[int, int, str], None]
"""Told of progress: variants done, variants in all, and the layer that is running."""


@dataclass
class _Track:
    """What is known of one variant so far."""

    variant: Variant
    predictions: dict[int, Any] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a sweep found.

    Attributes:
        baseline: Score with nothing disturbed.
        measurements: One for each variant, in the order given.
        notes: What a reader should know of how it was measured.
    """

    baseline: Score
    measurements: list[Measurement]
    notes: list[str]


def sweep(
    model: nn.Module,
    task: Task,
    variants: Sequence[Variant],
    disturber: Disturber,
    *,
    replay: bool = True,
    on_error: OnError = "record",
    watch: Watcher | None = None,
) -> Outcome:
    """Score the model undisturbed and in every variant.

    Args:
        model: The model; left as it was.
        task: Data and metric.
        variants: What to measure.
        disturber: Applies the variants to this model.
        replay: Recompute only what a variant can change; the result is the same to the last bit.
        on_error: ``record`` turns a variant that fails into a measurement with its reason; ``raise`` stops the sweep.
        watch: Told of progress.

    Returns:
        The baseline's score, one measurement for each variant in the order given, and notes.

    Raises:
        TaskError: If the task has no images, or the undisturbed model cannot be scored.
    """
    tracks = [_Track(variant) for variant in variants]
    baseline: dict[int, Any] = {}
    total, done = len(variants) * len(task), 0
    with untouched(model), torch.no_grad():
        forward = Forward(model, disturber, replay=replay)
        for batch in task.batches():
            run = unchanged_inputs(functools.partial(_predict, task, model, batch), batch)
            expected = dict(zip(batch.images, forward.baseline(run, len(tracks)), strict=True))
            baseline |= expected
            for number, track in enumerate(tracks):
                if not track.failure:
                    _measure(track, number, forward, run, batch, on_error)
                    _share(track, expected)
                done += len(batch.images)
                if watch:
                    watch(done, total, track.variant.layer.name)
    score = score_of(task, baseline)
    return Outcome(score, [_measurement(track, task, score, baseline) for track in tracks], forward.notes)


def evaluate(model: Callable[..., Any], task: Task) -> Score:
    """Score a model as it is; the caller sees to its mode and to gradients.

    Raises:
        TaskError: If the task has no images or cannot score the predictions.
    """
    predictions: dict[int, Any] = {}
    for batch in task.batches():
        predictions |= dict(zip(batch.images, _predict(task, model, batch), strict=True))
    return score_of(task, predictions)


def score_of(task: Task, predictions: dict[int, Any]) -> Score:
    """A task's verdict on predictions.

    Raises:
        TaskError: If there are none, or the task does not report its own metric.
    """
    if not predictions:
        raise TaskError(f"{task.name} has no images: there is nothing to score.")
    metrics = task.score(predictions)
    if task.metric not in metrics:
        raise TaskError(f"{task.name} names {task.metric!r} its metric but reports {', '.join(metrics)}.")
    return Score(metrics[task.metric], metrics, task.metric, task.unit, len(predictions))


def _predict(task: Task, model: Callable[..., Any], batch: Batch) -> list[Any]:
    predictions = task.predict(model, batch)
    if len(predictions) != len(batch.images):
        raise TaskError(
            f"{task.name} gave {len(predictions)} predictions for {len(batch.images)} images: give one each."
        )
    return predictions


def unchanged_inputs(run: Run, batch: Batch) -> Run:
    """The same pass, after which the batch is as it was: some models write to what they are given."""
    given = [(tensor, tensor.clone()) for tensor in tensors_in(batch) if not tensor.is_inference()]

    def run_and_restore() -> list[Any]:
        before = [version_of(tensor) for tensor, _ in given]
        try:
            return run()
        finally:
            for (tensor, kept), version in zip(given, before, strict=True):
                if version_of(tensor) != version:
                    tensor.copy_(kept)

    return run_and_restore


def _measure(track: _Track, number: int, forward: Forward, run: Run, batch: Batch, on_error: OnError) -> None:
    started = time.perf_counter()
    try:
        predictions = forward.variant(run, track.variant.recipes, number)
        track.predictions |= dict(zip(batch.images, predictions, strict=True))
    except Exception as error:
        if on_error == "raise":
            raise
        track.failure = f"{type(error).__name__}: {error}"
        track.predictions.clear()
    track.seconds += time.perf_counter() - started


def _share(track: _Track, expected: dict[int, Any]) -> None:
    """Keep one copy of predictions that the disturbance did not change."""
    for image, prediction in expected.items():
        if image in track.predictions and same(track.predictions[image], prediction):
            track.predictions[image] = prediction


def _measurement(track: _Track, task: Task, baseline: Score, expected: dict[int, Any]) -> Measurement:
    variant = track.variant
    if track.failure:
        return _failed(track, track.failure)
    unchanged = all(track.predictions[image] is expected[image] for image in expected)
    score = baseline if unchanged else score_of(task, track.predictions)
    if math.isnan(score.value):
        return _failed(track, f"{task.metric} is not a number")
    drop = baseline.value - score.value if task.higher_is_better else score.value - baseline.value
    return Measurement(
        variant.layer.name,
        variant.recipe.name,
        score=score.value,
        drop=drop,
        images=score.images,
        metrics=score.metrics,
        seconds=track.seconds,
    )


def _failed(track: _Track, reason: str) -> Measurement:
    variant = track.variant
    return Measurement(
        variant.layer.name, variant.recipe.name, None, None, status="failed", reason=reason, seconds=track.seconds
    )
