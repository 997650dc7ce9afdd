"""The sweep: one pass over the data, batches outside, layers inside."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import nn

from sensitivity.contracts import Condenses, Executor, Store, Task
from sensitivity.errors import StoreConflictError
from sensitivity.layers.trace.generators import RandomState
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.state.sole_use import random_state_before
from sensitivity.perturb.state.state import ModelState
from sensitivity.progress import Watcher
from sensitivity.records import Note, NoteKind
from sensitivity.records.units import after_drop, scale_of
from sensitivity.score import FirstLook
from sensitivity.sweep.passes.every_core import EveryCore, processes_for
from sensitivity.sweep.passes.forward import FEWEST_REPLAYED, ReplayDiffersError
from sensitivity.sweep.passes.in_process import InProcess, Passes, Unit
from sensitivity.sweep.passes.workers import Distributed, Job
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.reach import find_unreached
from sensitivity.sweep.scoring import Scoring, SweepOutcome
from sensitivity.sweep.settings import Sweep
from sensitivity.sweep.stopping.judge import Judge, judge_of
from sensitivity.sweep.stopping.race import Confidence
from sensitivity.sweep.storage.claim import claim, sweep_facts
from sensitivity.sweep.storage.results import Images, Results
from sensitivity.sweep.storage.spilled import SpilledStore, is_read_when_forked
from sensitivity.turns import process_state

SHOWN = 3  # worst layers beside the progress bar
LOOK_SELDOM = 20.0  # times what the last look for them took


@dataclass(frozen=True, kw_only=True)
class Settings(Sweep):
    """How a sweep runs, and when it stops; a number of ``workers`` is the concern of who makes the executor.

    Attributes:
        stop: When a drop is known well enough; None runs every variant on every image.
    """

    stop: Confidence | None = None

    @classmethod
    def of(cls, settings: Sweep, *, executor: Executor | None, stop: Confidence | None) -> Settings:
        """What a caller asked for, with the executor that was made for it."""
        values = {each.name: getattr(settings, each.name) for each in fields(settings)}
        auto = "auto" if settings.workers == "auto" and executor is None else None
        return cls(**values | {"executor": executor, "workers": auto, "stop": stop})


def sweep(
    model: nn.Module,
    task: Task,
    variants: Sequence[Variant],
    perturber: Perturber,
    *,
    settings: Settings | None = None,
    store: Store | None = None,
    watch: Watcher | None = None,
) -> SweepOutcome:
    """Score the model unperturbed and in every variant.

    Args:
        model: The model; left as it was.
        task: Data and metric.
        variants: What to measure.
        perturber: Applies the variants to this model.
        settings: How.
        store: Keeps what was measured, so that the sweep can be stopped and run again to go on; a variant that failed
            on a batch counts as failed from then on, unless memory ran out.
        watch: Told of progress.

    Returns:
        The baseline's score, one measurement for each variant in the order given, and notes. Ctrl-C ends the sweep
        early: what was measured until then is returned, and a note says so. While scores are computed, the first
        Ctrl-C does without intervals, the second without the scores that are still to come.

    Raises:
        CalibrationError: If a recipe quantizes activations and no ranges fit it.
        TaskError: If the task has no images, or the unperturbed model cannot be scored, or not with a number.
        StoreConflictError: If the store was written for another model, data, calibration or settings, or the
            unperturbed model predicts something else on the first batch than when it was written.
        StoreError: If the store cannot be written.
        ExecutorError: If a worker died and its executor does not run lost work again, or something cannot be sent.
        KeyboardInterrupt: On Ctrl-C before the first batch was complete.
    """
    settings = settings or Settings()
    for recipe in set().union(*(variant.distinct_recipes for variant in variants)):
        if recipe.needs_calibration:
            perturber.calibration_for(recipe)
    if store is not None:
        claim(store, sweep_facts(model, task, variants, perturber))
    condense = task.condensed if store is not None and isinstance(task, Condenses) else None
    results = Results(SpilledStore() if store is None else store, condense)
    scorers = processes_for(model, task) if settings.workers == "auto" and is_read_when_forked(results.store) else 1
    with untouched(model) as state, torch.no_grad():
        subject = _Subject(model, task, variants, perturber, state, stored=store is not None, scorers=scorers)
        try:
            judge, notes = _attempt_as_before(subject, settings, results, watch)
        except ReplayDiffersError as error:
            results.distrust(error.note)
            judge, notes = _attempt(subject, settings, results, watch)
        try:
            unreached = {} if notes else find_unreached(model, task, variants, perturber, results)
        except KeyboardInterrupt:
            unreached = {}  # all was measured, and a study without these reasons is better than none
    scoring = Scoring(task, judge, results, on_error=settings.on_error, unreached=unreached, processes=scorers)
    return scoring.outcome(variants, notes)


@dataclass(frozen=True)
class _Subject:
    """What a sweep measures; see ``sweep``.

    Attributes:
        model: The model.
        task: Data and metric.
        variants: What is measured.
        perturber: Applies the variants.
        state: The model's state before the sweep: every attempt begins with it.
        stored: Whether an earlier attempt may have left results.
        scorers: Processes that may score at a time.
    """

    model: nn.Module
    task: Task
    variants: Sequence[Variant]
    perturber: Perturber
    state: ModelState
    stored: bool
    scorers: int


def _attempt_as_before(
    subject: _Subject, settings: Settings, results: Results, watch: Watcher | None
) -> tuple[Judge, list[Note]]:
    """Run a sweep; go on with a store that was begun with several threads within a pass as it was begun."""
    try:
        return _attempt(subject, settings, results, watch)
    except StoreConflictError:
        if settings.workers is None or results.images:
            raise
        return _attempt(subject, replace(settings, workers=None), results, watch)


def _attempt(
    subject: _Subject, settings: Settings, results: Results, watch: Watcher | None
) -> tuple[Judge, list[Note]]:
    """Run a sweep until it ends or is interrupted; in full if an earlier attempt found that replay is wrong.

    Raises:
        ReplayDiffersError: If this one finds it.
        KeyboardInterrupt: On Ctrl-C before the first batch was complete.
    """
    task, variants = subject.task, subject.variants
    judge = judge_of(
        settings.stop,
        task,
        variants,
        results,
        intervals=settings.intervals,
        on_error=settings.on_error,
        processes=subject.scorers,
    )
    progress = _Progress(watch, len(variants) * len(task), task.unit)
    replay = settings.replay and not any(note.kind.ends_replay for note in results.notes)
    with process_state:
        results.random_state(random_state_before()).set()
        passes = _passes(subject, settings, replay=replay and not results.distrusted)
    try:
        _run(task, passes, _Intake(judge, results, progress, FirstLook(task)))
    except KeyboardInterrupt:
        if not results.expected():
            raise
        text = f"interrupted: {len(results.expected())} of {len(task)} images were run"
        return judge, [Note(NoteKind.INTERRUPTED, text)]
    finally:
        passes.cancel()
    return judge, []


def _passes(subject: _Subject, settings: Settings, *, replay: bool) -> Passes:
    model, task, perturber = subject.model, subject.task, subject.perturber
    replay = replay and len(subject.variants) * len(task) >= FEWEST_REPLAYED
    job = Job(
        model=model,
        task=task,
        perturber=perturber,
        replay=replay,
        memory_limit=settings.memory_limit,
        on_error=settings.on_error,
        random_state=RandomState.now(),
        threads=torch.get_num_threads(),
        variants=subject.variants,
        resumed=subject.stored,
    )
    if settings.executor is not None:
        return Distributed(settings.executor, job)
    in_process = replace(job, whole=settings.stop is None).passes(subject.state)
    processes = processes_for(model, task) if settings.workers == "auto" else 1
    return in_process if processes == 1 else EveryCore(in_process, job, processes)


def _run(task: Task, passes: Passes, intake: _Intake) -> None:
    """Run batches until every variant is decided or the data end; they are taken in in their order.

    The unperturbed model runs on the first batch also where a store has all of it: that it predicts the same shows that
    the store is about this model and task. On later batches that a store has, it runs where variants are replayed.
    """
    judge, results = intake.judge, intake.results
    begun = False
    started: deque[_Started] = deque()
    for batch in task.batches(judge.order):
        running = judge.running()
        if not running and results.expected():
            break
        missing = results.missing(batch.images, running)
        known = begun and results.has_baseline(batch.images)
        begun = True
        if known and isinstance(passes, InProcess) and passes.runs_in_full:
            results.read_baseline(batch.images)
            units = passes.start_variants(batch, missing)
        else:
            units = passes.start(batch, missing) if missing or not known else iter(())
        started.append(_Started(batch.images, running, units))
        while len(started) > passes.ahead:
            intake.take(started.popleft())
    while started and judge.running():
        intake.take(started.popleft())


@dataclass(frozen=True)
class _Started:
    """A batch whose passes were started.

    Attributes:
        images: Its images.
        variants: The variants that were running then.
        units: What the passes find, one after another.
    """

    images: Images
    variants: Sequence[Variant]
    units: Iterator[Unit]


@dataclass(frozen=True)
class _Intake:
    """Where the findings of passes go: to the results, the judge, and who watches."""

    judge: Judge
    results: Results
    progress: _Progress
    first_look: FirstLook

    def take(self, batch: _Started) -> None:
        """Keep what the passes on one batch found; variants that were decided meanwhile get no further images."""
        images, done = batch.images, 0
        for unit in batch.units:
            self.results.keep_notes(unit.notes)
            if unit.variant is None:
                self.results.keep_baseline(images, unit.predictions or [])
                continue
            self._keep(unit.variant, images, unit)
            done += len(images)
            self.progress.add(len(images), unit.variant.layer.name)
        self.progress.add(len(batch.variants) * len(images) - done, "")
        started = set(batch.variants)
        self.results.count(images, [variant for variant in self.judge.running() if variant in started])
        self._look()  # what a store had was not run, but is looked at
        self.judge.take(images)
        self.progress.look(self.judge)

    def _keep(self, variant: Variant, images: Images, unit: Unit) -> None:
        self.results.seconds[variant.digest] += unit.seconds
        if unit.predictions is None:
            self.results.keep_failure(variant, images, unit.failure, lasting=unit.lasting)
        else:
            self.results.keep(variant, images, unit.predictions)

    def _look(self) -> None:
        """Warn and note where the unperturbed model's predictions look as if an adapter were wrong."""
        if not self.first_look.is_due(self.results.images):
            return
        suspicion = self.first_look.take(self.results.expected())
        if suspicion is not None:
            self.results.keep_notes([Note(NoteKind.REMARK, suspicion)])


class _Progress:
    """Counts images done, of all variants together, and names the worst layers so far."""

    def __init__(self, watch: Watcher | None, total: int, unit: str) -> None:
        self._watch = watch
        self._total = total
        self._unit = unit
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
        try:
            drops = judge.drops()
        except Exception:  # noqa: BLE001 - a metric may fail on the few images so far; this is for show alone
            drops = []
        worst = sorted(drops, key=lambda variant_and_drop: variant_and_drop[1], reverse=True)[:SHOWN]
        scale = scale_of(self._unit)
        shown = ", ".join(f"{variant.layer.name} {drop * scale:.3g}" for variant, drop in worst if drop > 0)
        self._worst = f"  (worst: {shown}{after_drop(self._unit)})" if shown else ""
        now = time.perf_counter()
        self._look_at = now + LOOK_SELDOM * (now - started)
