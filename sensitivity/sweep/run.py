"""The sweep: one pass over the data, batches outside, layers inside."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from sensitivity.contracts import Batch, Store, Task
from sensitivity.errors import TaskError
from sensitivity.layers.inputs import tensors_in
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.restore import untouched
from sensitivity.records import Measurement, Score
from sensitivity.sweep.forward import Forward, Run
from sensitivity.sweep.identity import claim, facts
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.replay import version_of
from sensitivity.sweep.results import Images, Results
from sensitivity.sweep.store import MemoryStore

OnError = Literal["record", "raise"]
Watcher = Callable[[int, int, str], None]
"""Told of progress: variants done, variants in all, and the layer that is running."""


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
    store: Store | None = None,
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
        store: Keeps what was measured, so that the sweep can be stopped and run again to go on; a variant that failed
            on a batch counts as failed from then on.
        replay: Recompute only what a variant can change; the result is the same to the last bit.
        on_error: ``record`` turns a variant that fails into a measurement with its reason; ``raise`` stops the sweep.
        watch: Told of progress.

    Returns:
        The baseline's score, one measurement for each variant in the order given, and notes.

    Raises:
        CalibrationError: If a recipe quantizes activations and no ranges fit it.
        TaskError: If the task has no images, or the undisturbed model cannot be scored.
        StoreConflictError: If the store was written for other weights, data, calibration or settings.
        StoreError: If the store cannot be written.
    """
    for recipe in {recipe for variant in variants for recipe in variant.recipes.values() if recipe.needs_calibration}:
        disturber.calibration_for(recipe)
    if store is not None:
        claim(store, facts(model, task, variants, disturber))
    results = Results(MemoryStore() if store is None else store)
    total, done = len(variants) * len(task), 0
    with untouched(model), torch.no_grad():
        torch.set_rng_state(results.random_state())
        forward = Forward(model, disturber, replay=replay and not results.notes)
        for batch in task.batches():
            missing = results.start(batch.images, variants)
            done += len(batch.images) * (len(variants) - len(missing))
            if missing or not results.has_baseline(batch.images):
                run = unchanged_inputs(functools.partial(_predict, task, model, batch), batch)
                expected = forward.baseline(run, [variant.recipes for variant in missing])
                results.keep_notes(forward.notes)
                results.keep_baseline(batch.images, expected)
            for variant in missing:
                _measure(variant, forward, run, batch.images, results, on_error)
                done += len(batch.images)
                if watch:
                    watch(done, total, variant.layer.name)
    baseline = results.baseline()
    score = score_of(task, baseline)
    return Outcome(score, [_measurement(one, task, score, baseline, results) for one in variants], results.notes)


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


def _measure(variant: Variant, forward: Forward, run: Run, images: Images, results: Results, on_error: OnError) -> None:
    """Run a variant on a batch and keep what it predicts, or why it failed."""
    started = time.perf_counter()
    try:
        keep = functools.partial(results.keep, variant, images, forward.variant(run, variant.recipes))
    except Exception as error:
        if on_error == "raise":
            raise
        keep = functools.partial(results.keep_failure, variant, images, f"{type(error).__name__}: {error}")
    results.seconds[variant.digest] += time.perf_counter() - started
    results.keep_notes(forward.notes)
    keep()


def _measurement(
    variant: Variant, task: Task, baseline: Score, predictions: dict[int, Any], results: Results
) -> Measurement:
    failure = results.failure(variant)
    if failure is not None:
        return _failed(variant, failure, results)
    changed = results.changed(variant)
    score = score_of(task, predictions | changed) if changed else baseline
    if math.isnan(score.value):
        return _failed(variant, f"{task.metric} is not a number", results)
    drop = baseline.value - score.value if task.higher_is_better else score.value - baseline.value
    return Measurement(
        variant.layer.name,
        variant.recipe.name,
        score=score.value,
        drop=drop,
        images=score.images,
        metrics=score.metrics,
        seconds=results.seconds[variant.digest],
    )


def _failed(variant: Variant, reason: str, results: Results) -> Measurement:
    seconds = results.seconds[variant.digest]
    return Measurement(
        variant.layer.name, variant.recipe.name, None, None, status="failed", reason=reason, seconds=seconds
    )
