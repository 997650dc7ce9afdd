"""``wrapped.tune``: what is checked before anything runs, the search, and the proof on the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sensitivity.advise.verdicts import images_to_decide
from sensitivity.contracts import Executor, Store, Task
from sensitivity.deploy.verify.timing import compare_with_float
from sensitivity.errors import (
    EngineError,
    ExportError,
    SensitivityError,
    TaskError,
)
from sensitivity.perturb.perturber import Perturber
from sensitivity.progress import Watcher
from sensitivity.records import Measurement, Scheme, Score
from sensitivity.records.results.latency import check_layers
from sensitivity.records.results.tuned import EngineScore, Goal, TunedRecord
from sensitivity.records.results.verdict import Verdict
from sensitivity.records.units import after_drop, drop_text, scale_of
from sensitivity.score import evaluate
from sensitivity.search.assignment import bytes_under, scheme_of
from sensitivity.search.groups import groups_of
from sensitivity.search.noise import OutputNoise
from sensitivity.search.request import Request, Subject
from sensitivity.search.search import Search
from sensitivity.search.side import Apart, Side
from sensitivity.search.space import Space, drop_of_trial
from sensitivity.search.trials import Trial, Trials
from sensitivity.sweep.arguments import stored_stop
from sensitivity.sweep.run import Settings
from sensitivity.sweep.settings import Sweep
from sensitivity.sweep.signals.passes import output_passes
from sensitivity.sweep.stopping.race import Confidence
from sensitivity.sweep.storage.spilled import SpilledStore

EQUALIZED = "equalized "
"""What keys of a store begin with that are of the equalized copy."""

COMPARED_IMAGES = 8
"""Images on which outputs are compared for proposals, at least, where the task has as many."""


def settings_for(goal: Goal, task: Task, *, stop: Confidence | None, executor: Executor | None) -> Settings:
    """How passes run; with a stop, until a scheme is known to be within the largest drop or beyond it.

    Args:
        goal: What is to be reached.
        task: Data and metric.
        stop: Its level counts; its tolerance only where there is no largest drop; that it asks for the worst does not.
        executor: Where passes run; None is this process.
    """
    if stop is not None:
        stop = replace(stop, tolerance=goal.max_drop or stop.tolerance, top=None)
    return Settings.of(Sweep(executor=executor), executor=executor, stop=stored_stop(stop, task))


def tune(
    subject: Subject,
    task: Task,
    request: Request,
    *,
    settings: Settings,
    store: Store | None = None,
    watch: Watcher | None = None,
) -> TunedRecord:
    """Search for a scheme that meets a goal, and prove it on the engine where one is here.

    Args:
        subject: The model, and what runs it.
        task: Data and metric.
        request: What is asked for.
        settings: How passes run.
        store: Keeps what was measured.
        watch: Told of progress.

    Raises:
        TaskError: If the task has no images, or the unperturbed model cannot be scored.
        CalibrationError: If a candidate quantizes activations and no ranges fit it.
        EngineError: If no candidate fits any layer.
    """
    started = time.perf_counter()
    goal = request.goal
    space, notes = space_of(subject, task, request)
    opened_store = SpilledStore() if store is None else store
    side = _side(subject, task, settings, opened_store, watch)

    def equalize() -> Side:
        assert subject.equalized is not None
        copied = subject.equalized()
        own = _side(copied, task, settings, Apart(opened_store, EQUALIZED), watch)
        return replace(own, layers=copied.layers, original=side.trials)

    search = Search(space, side, None if subject.equalized is None else equalize)
    chosen = search.run()
    scheme = scheme_of(subject.layers, chosen.assignment, _reasons(chosen, space.refused))
    runs = subject.equalized() if chosen.equalized and subject.equalized is not None else subject
    proof, failures = _prove(runs, request, scheme, task)
    met = space.meets(chosen) and _engine_meets(goal, proof)
    record = TunedRecord(
        model=subject.layers.model,
        task=task.name,
        metric=task.metric,
        unit=task.unit,
        higher_is_better=task.higher_is_better,
        layers=tuple(layer.name for layer in subject.layers),
        goal=goal,
        baseline=side.trials.baseline,
        scheme=scheme,
        score=_score(chosen, side.trials.baseline),
        drop=drop_of_trial(chosen),
        drop_low=chosen.measurement.drop_low,
        drop_high=chosen.measurement.drop_high,
        size_bytes=bytes_under(subject.layers, chosen.assignment),
        met=met,
        steps=tuple(search.steps),
        engine=proof,
        passes=sum(step.passes for step in search.steps),
        seconds=time.perf_counter() - started,
        notes=(*request.notes, *notes, *side.trials.notes, *search.notes, *failures),
        equalized=chosen.equalized,
    )
    doubts = [*_undecided(record, chosen.measurement), *_missed_on_engine(record)]
    return replace(record, notes=(*record.notes, *doubts, *([] if met else [_nearest(record)])))


def space_of(subject: Subject, task: Task, request: Request) -> tuple[Space, list[str]]:
    """What a search may choose from, and what a reader should know of it.

    Raises:
        TaskError: If the task has no images.
        StudyError: If the times that were measured before are of other layers.
        CalibrationError: If a candidate quantizes activations and no ranges fit it.
        EngineError: If no candidate fits any layer.
    """
    if not len(task):
        raise TaskError(f"{task.name} has no images: there is nothing to score.")
    refused, notes = _refused(subject, request)
    able = [candidate for candidate in request.candidates if len(refused[candidate.name]) < len(subject.layers)]
    if not able:
        name, reasons = next(iter(refused.items()))
        raise EngineError(
            f"no candidate fits any layer of {subject.layers.model}: {name}: {next(iter(reasons.values()))}"
        )
    latency = request.latency
    if latency is not None:
        check_layers(latency, subject.layers.names, subject.layers.model)
    elif request.goal.latency_s is not None:
        latency = subject.latency(able[0], request.engine)
    groups = groups_of(subject.model, subject.layers, subject.example_inputs)
    scale = scale_of(task.unit)
    return Space(subject.layers, groups, able, refused, request.goal, scale, latency), notes


def _side(subject: Subject, task: Task, settings: Settings, store: Store, watch: Watcher | None) -> Side:
    """What measures schemes of a model, and compares its outputs."""
    prepared = subject.perturber  # elsewhere only a fresh one can be sent
    perturber = prepared if settings.executor is None else Perturber(subject.model, prepared.calibrations)
    trials = Trials(subject.model, task, perturber, settings=settings, store=store, watch=watch)
    return Side(trials, OutputNoise(subject.model, prepared, _few(subject, task)))


def _refused(subject: Subject, request: Request) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Layers that each candidate does not fit, in the simulation or on the engine, with the reason; and notes."""
    refused: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for recipe in request.candidates:
        if recipe.needs_calibration:
            subject.perturber.calibration_for(recipe)
        reasons = refused.setdefault(recipe.name, {})
        for layer in subject.layers:
            try:
                subject.perturber.touched({layer: recipe})
            except SensitivityError as error:
                reasons[layer.name] = str(error)
        if request.kind is not None and len(reasons) < len(subject.layers) and not notes:
            scheme = Scheme.all(recipe).protect(reasons) if reasons else Scheme.all(recipe)
            try:
                reasons |= subject.plan(scheme, target=request.kind.target).left_out
            except ExportError as error:
                notes.append(f"what {request.kind.title} leaves in float is not known: {error}")
    return refused, notes


def _few(subject: Subject, task: Task) -> list[tuple[Callable[[], Any], int]]:
    """The first batches of the task, as passes whose outputs are compared."""
    passes: list[tuple[Callable[[], Any], int]] = []
    images = 0
    for run, count, _ in output_passes(subject.model, task, subject.example_inputs):
        passes.append((run, count))
        images += count
        if images >= COMPARED_IMAGES:
            break
    return passes


def _reasons(chosen: Trial, refused: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Why layers are in float: nothing else fits them, or the goal needs it."""
    reasons: dict[str, str] = {}
    names = {layer.name for layer in chosen.assignment}
    everywhere = [set(layers) for layers in refused.values()]
    unfit = set.intersection(*everywhere) if everywhere else set()
    for layers in refused.values():
        for name, reason in layers.items():
            if name in unfit and name not in names:
                reasons.setdefault(name, reason)
    return reasons


def _score(chosen: Trial, baseline: Score) -> Score:
    row = chosen.measurement
    value = float("nan") if row.score is None else row.score
    return Score(value, row.metrics or {baseline.metric: value}, baseline.metric, baseline.unit, row.images)


def _prove(subject: Subject, request: Request, scheme: Scheme, task: Task) -> tuple[EngineScore | None, list[str]]:
    """The engine's own score and latency; None with the reason where the scheme cannot be deployed."""
    if not request.runs_here:
        return None, []
    try:
        deployed = subject.deploy(scheme, request.engine)
        score = evaluate(deployed, task)
        planned, in_float = compare_with_float(deployed)
    except (ExportError, EngineError) as error:
        return None, [f"the scheme was not run on the engine: {error}"]
    plan = deployed.plan
    float_s = None if in_float is None else in_float.median_s
    proof = EngineScore(deployed.name, score.value, planned.median_s, float_s, len(plan.recipes), dict(plan.left_out))
    return proof, []


def _engine_meets(goal: Goal, proof: EngineScore | None) -> bool:
    """Whether the engine is as fast as was asked for; its score is told beside, and decides nothing."""
    if goal.latency_s is None:
        return True
    return proof is not None and proof.latency_s is not None and proof.latency_s <= goal.latency_s


def _undecided(record: TunedRecord, measurement: Measurement) -> list[str]:
    """That the target lies inside the drop's interval, and how many images would tell."""
    if record.verdict is not Verdict.UNDECIDED or record.goal.max_drop is None:
        return []
    needed = images_to_decide(measurement, record.goal.max_drop / record.scale)
    more = "far more images are needed" if needed is None else f"about {needed} images are needed"
    return [
        f"{record.score.images} images do not decide whether other images lose at most "
        f"{drop_text(record.goal.max_drop, record.unit, 'g')}: the interval of the drop reaches beyond that; {more}"
    ]


def _missed_on_engine(record: TunedRecord) -> list[str]:
    """That the engine's own score misses a target that the simulation meets."""
    if record.engine is None or record.goal.max_drop is None or not record.met:
        return []
    drop = record.baseline.value - record.engine.score
    drop *= record.scale if record.higher_is_better else -record.scale
    if drop <= record.goal.max_drop:
        return []
    return [
        f"the simulation meets the target and {record.engine.engine} does not: its own drop is "
        f"{drop:.2f}{after_drop(record.unit)}; verify says where the two part"
    ]


def _nearest(record: TunedRecord) -> str:
    """What was not met, and what is nearest."""
    facts = [f"a drop of {record.drop * record.scale:.2f}{after_drop(record.unit)}"]
    facts.append(f"{record.size_bytes} bytes")
    if record.engine is not None and record.engine.latency_s is not None:
        facts.append(f"{1e3 * record.engine.latency_s:.3g} ms a run")
    return f"the target of {record.goal.text(record.unit)} was not met; the nearest that was measured has " + ", ".join(
        facts
    )
