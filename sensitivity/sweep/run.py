"""The sweep: one pass over the data, batches outside, layers inside."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sensitivity.contracts import Executor, Store, Task
from sensitivity.errors import TaskError
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.restore import untouched
from sensitivity.records import Measurement, Score
from sensitivity.sweep.executors import Distributed, Job
from sensitivity.sweep.forward import Forward
from sensitivity.sweep.identity import claim, facts
from sensitivity.sweep.judge import Judge, judge_of
from sensitivity.sweep.passes import InProcess, OnError, Passes, Unit, predict
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.race import Confidence, Estimate
from sensitivity.sweep.results import Images, Results
from sensitivity.sweep.store import MemoryStore

Watcher = Callable[[int, int, str], None]
"""Told of progress: images of all variants done, in all, and which layer is running, with the worst so far."""

SHOWN = 3  # worst layers beside the progress bar
LOOK_SELDOM = 20.0  # times what the last look for them took

_DECIDED = {
    "below": "drop at most the tolerance",
    "above": "drop beyond the tolerance",
    "narrow": "drop known as well as was asked for",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a sweep runs.

    Attributes:
        replay: Recompute only what a variant can change; the result is the same to the last bit.
        on_error: ``record`` turns a variant that fails into a measurement with its reason; ``raise`` stops the sweep.
        stop: When a drop is known well enough; None runs every variant on every image.
        memory_limit: Bytes that a recorded pass may keep; None keeps what replay can use.
        executor: Where passes run; None is this process.
    """

    replay: bool = True
    on_error: OnError = "record"
    stop: Confidence | None = None
    memory_limit: int | None = None
    executor: Executor | None = None


@dataclass(frozen=True)
class Outcome:
    """What a sweep found.

    Attributes:
        baseline: Score with nothing disturbed.
        measurements: One for each variant, in the order given.
        notes: What a reader should know of how it was measured.
        intervals: What the intervals of the drops hold, in words.
    """

    baseline: Score
    measurements: list[Measurement]
    notes: list[str]
    intervals: str


def sweep(
    model: nn.Module,
    task: Task,
    variants: Sequence[Variant],
    disturber: Disturber,
    *,
    settings: Settings | None = None,
    store: Store | None = None,
    watch: Watcher | None = None,
) -> Outcome:
    """Score the model undisturbed and in every variant.

    Args:
        model: The model; left as it was.
        task: Data and metric.
        variants: What to measure.
        disturber: Applies the variants to this model.
        settings: How.
        store: Keeps what was measured, so that the sweep can be stopped and run again to go on; a variant that failed
            on a batch counts as failed from then on.
        watch: Told of progress.

    Returns:
        The baseline's score, one measurement for each variant in the order given, and notes. Ctrl-C ends the sweep
        early: what was measured until then is returned, and a note says so.

    Raises:
        CalibrationError: If a recipe quantizes activations and no ranges fit it.
        TaskError: If the task has no images, or the undisturbed model cannot be scored.
        StoreConflictError: If the store was written for other weights, data, calibration or settings.
        StoreError: If the store cannot be written.
        ExecutorError: If a worker died and its executor does not run lost work again.
        KeyboardInterrupt: On Ctrl-C before the first batch was complete.
    """
    settings = settings or Settings()
    for recipe in {recipe for variant in variants for recipe in variant.recipes.values() if recipe.needs_calibration}:
        disturber.calibration_for(recipe)
    if store is not None:
        claim(store, facts(model, task, variants, disturber))
    results = Results(MemoryStore() if store is None else store)
    judge = judge_of(settings.stop, task, variants, results)
    progress = _Progress(watch, len(variants) * len(task), 100.0 if task.unit == "%" else 1.0)
    notes: list[str] = []
    with untouched(model), torch.no_grad():
        torch.set_rng_state(results.random_state())
        passes = _passes(model, task, variants, disturber, settings, replay=settings.replay and not results.notes)
        try:
            _run(task, judge, passes, results, progress)
        except KeyboardInterrupt:
            if not results.expected():
                raise
            notes.append(f"interrupted: {len(results.expected())} of {len(task)} images were run")
        finally:
            passes.cancel()
    return _outcome(task, variants, judge, results, notes)


def _passes(
    model: nn.Module, task: Task, variants: Sequence[Variant], disturber: Disturber, settings: Settings, *, replay: bool
) -> Passes:
    if settings.executor is None:
        forward = Forward(model, disturber, replay=replay, memory_limit=settings.memory_limit)
        return InProcess(model, task, forward, settings.on_error)
    job = Job(
        model=model,
        task=task,
        disturber=disturber,
        replay=replay,
        memory_limit=settings.memory_limit,
        on_error=settings.on_error,
        random_state=torch.get_rng_state(),
        threads=torch.get_num_threads(),
        variants=variants,
    )
    return Distributed(settings.executor, job)


def _run(task: Task, judge: Judge, passes: Passes, results: Results, progress: _Progress) -> None:
    """Run batches until every variant is decided or the data end; they are taken in in their order."""
    started: deque[tuple[Images, list[Variant], Iterator[Unit]]] = deque()
    for batch in task.batches(judge.order):
        running = judge.running()
        if not running and results.expected():
            break
        missing = results.missing(batch.images, running)
        needed = missing or not results.has_baseline(batch.images)
        started.append((batch.images, running, passes.start(batch, missing) if needed else iter(())))
        while len(started) > passes.ahead:
            _take_in(*started.popleft(), judge, results, progress)
    while started and judge.running():
        _take_in(*started.popleft(), judge, results, progress)


def _take_in(
    images: Images, started: list[Variant], units: Iterator[Unit], judge: Judge, results: Results, progress: _Progress
) -> None:
    """Keep what the passes on one batch found; variants that were decided meanwhile get no further images."""
    done = 0
    for unit in units:
        results.keep_notes(unit.notes)
        if unit.variant is None:
            assert unit.predictions is not None
            results.keep_baseline(images, unit.predictions)
            continue
        results.seconds[unit.variant.digest] += unit.seconds
        if unit.predictions is None:
            results.keep_failure(unit.variant, images, unit.failure)
        else:
            results.keep(unit.variant, images, unit.predictions)
        done += len(images)
        progress.add(len(images), unit.variant.layer.name)
    progress.add(len(started) * len(images) - done, "")
    running = [variant for variant in judge.running() if variant in started]
    results.count(images, running)
    judge.take(images)
    progress.look(judge)


class _Progress:
    """Counts images done, of all variants together, and names the worst layers so far."""

    def __init__(self, watch: Watcher | None, total: int, scale: float) -> None:
        self._watch = watch
        self._total = total
        self._scale = scale
        self._done = 0
        self._worst = ""
        self._look_at = 0.0

    def add(self, images: int, layer: str) -> None:
        """Count images of a layer; those that need no work have no layer and are not shown by themselves."""
        self._done += images
        if self._watch and layer:
            self._watch(self._done, self._total, layer + self._worst)

    def look(self, judge: Judge) -> None:
        """Find the worst layers, unless that would take more than a small share of the time."""
        started = time.perf_counter()
        if self._watch is None or started < self._look_at:
            return
        drops = sorted(judge.drops(), key=lambda found: found[1], reverse=True)[:SHOWN]
        shown = ", ".join(f"{one.layer.name} {drop * self._scale:.3g}" for one, drop in drops if drop > 0)
        self._worst = f"  (worst: {shown})" if shown else ""
        now = time.perf_counter()
        self._look_at = now + LOOK_SELDOM * (now - started)


def evaluate(model: Callable[..., Any], task: Task) -> Score:
    """Score a model as it is; the caller sees to its mode and to gradients.

    Raises:
        TaskError: If the task has no images or cannot score the predictions.
    """
    predictions: dict[int, Any] = {}
    for batch in task.batches():
        predictions |= dict(zip(batch.images, predict(task, model, batch), strict=True))
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


def _outcome(task: Task, variants: Sequence[Variant], judge: Judge, results: Results, notes: Sequence[str]) -> Outcome:
    baseline = score_of(task, results.expected())
    rows = [_measurement(variant, task, baseline, judge, results) for variant in variants]
    return Outcome(baseline, rows, [*results.notes, *notes], judge.meaning)


def _measurement(variant: Variant, task: Task, baseline: Score, judge: Judge, results: Results) -> Measurement:
    failure = results.failure(variant)
    if failure is not None:
        return _missing(variant, "failed", failure, results)
    images = results.images_of(variant)
    if not images:
        return _missing(variant, "skipped", "interrupted before it ran on a whole batch", results)
    changed = results.changed(variant)
    everything = len(images) == baseline.images
    before = baseline if everything else score_of(task, results.expected(images))
    after = score_of(task, results.expected(images) | changed) if changed else before
    if math.isnan(after.value):
        return _missing(variant, "failed", f"{task.metric} is not a number", results)
    sign = 1.0 if task.higher_is_better else -1.0
    estimate = judge.estimate(variant)
    drop = sign * (before.value - after.value) if everything or estimate is None else estimate.drop
    status, reason = _status(estimate, len(images), len(judge.order or ()) or len(task))
    low, high = _bounds(estimate)
    return Measurement(
        variant.layer.name,
        variant.recipe.name,
        score=after.value if everything else baseline.value - sign * drop,
        drop=drop,
        drop_low=low,
        drop_high=high,
        images=len(images),
        status=status,
        reason=reason,
        metrics=after.metrics,
        seconds=results.seconds[variant.digest],
    )


def _status(estimate: Estimate | None, images: int, whole: int) -> tuple[str, str]:
    if images >= whole:
        return "measured", ""
    if estimate is None or estimate.status == "undecided":
        return "interrupted", f"after {images} of {whole} images"
    return "decided", f"{_DECIDED[estimate.status]}, after {images} of {whole} images"


def _bounds(estimate: Estimate | None) -> tuple[float | None, float | None]:
    """Finite bounds, or none."""
    if estimate is None or not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return None, None
    return estimate.low, estimate.high


def _missing(variant: Variant, status: str, reason: str, results: Results) -> Measurement:
    seconds = results.seconds[variant.digest]
    return Measurement(
        variant.layer.name, variant.recipe.name, None, None, status=status, reason=reason, seconds=seconds
    )
