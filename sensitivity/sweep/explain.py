"""What a sweep will cost, from a short probe: nothing is kept."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sensitivity.contracts import Batch, LeavesOut, MeanOfInstances, Task
from sensitivity.errors import TaskError
from sensitivity.layers.trace.inputs import unchanged_inputs
from sensitivity.markup.elements import element, listed
from sensitivity.markup.view import view
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.state.state import ModelState
from sensitivity.score import predict
from sensitivity.sweep.passes.forward import CHECKED_VARIANTS, Forward, Run, checked_first
from sensitivity.sweep.passes.predictions import bytes_of, same
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.settings import Sweep
from sensitivity.sweep.stopping.jackknife import (
    FEWEST_IMAGES,
    GROUPS,
    GROUPS_OF_A_STOP,
    HALVINGS,
    groups_and_halves,
    images_by_kind,
    scores_without,
)
from sensitivity.sweep.stopping.judge import LOOK_AGAIN_AT
from sensitivity.sweep.stopping.race import Confidence

PROBED = 8  # variants, spread over the model
PROBED_BATCHES = 4  # of the unperturbed model, to see how the time to score grows
REPEATS = 3  # timings, of which the middle one counts
LONGEST_PROBE_S = 20.0  # after which no timing is repeated

clock = time.perf_counter


@dataclass(frozen=True)
class Explanation:
    """What a sweep will cost in this process.

    Attributes:
        variants: Perturbed models to measure.
        images: Images of the task.
        batch_images: Images of the batch that was probed.
        pass_s: Seconds that the unperturbed model takes for all images.
        passes: Cost of all passes of the sweep in passes of the unperturbed model over all images.
        naive_passes: The same without replay: one for each variant, and one.
        scoring_s: Seconds of ``seconds`` that scores and intervals take.
        seconds: Expected time of the sweep; writing a store is not in it, nor is calibration.
        kept_bytes: Bytes that replay keeps of one batch.
        predictions_bytes: Bytes of all predictions in memory; a store keeps them in its file instead, compressed, which
            is at most a third more.
        at_most: Whether a stop may make it less.
        notes: What else matters, e.g. why passes are run in full.
    """

    variants: int
    images: int
    batch_images: int
    pass_s: float
    passes: float
    naive_passes: int
    scoring_s: float
    seconds: float
    kept_bytes: int
    predictions_bytes: int
    at_most: bool = False
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        about = "at most about" if self.at_most else "about"
        lines = [
            f"{self.variants} variants on {self.images} images: {about} {duration(self.seconds)} in this process, "
            f"{duration(self.scoring_s)} of it for scores and intervals",
            self._passes_told(),
            f"replay keeps {self.kept_bytes / 2**20:.0f} MiB for a batch of {self.batch_images}; all predictions take "
            f"{self.predictions_bytes / 2**20:.3g} MiB of memory, or of disk with store=",
        ]
        return "\n".join([*lines, *self.notes])

    def _passes_told(self) -> str:
        each = f"{duration(self.pass_s)} each"
        if self.passes <= self.naive_passes:
            return f"{self.passes:.1f} passes over the data instead of {self.naive_passes}, {each}"
        return (
            f"{self.naive_passes} passes over the data, {each}; with what is done once, weights and checks, that takes "
            f"as long as {self.passes:.1f} passes"
        )

    def _repr_html_(self) -> str:
        title, *facts = str(self).split("\n")
        return view(element("strong", title), listed(facts))


def explain(
    model: nn.Module,
    task: Task,
    variants: Sequence[Variant],
    perturber: Perturber,
    *,
    stop: Confidence | None = None,
    settings: Sweep | None = None,
) -> Explanation:
    """Run the first batches unperturbed and the first one in some variants, and tell what all of it will take.

    Args:
        model: The model; left as it was.
        task: Data and metric.
        variants: What is to be measured.
        perturber: Applies the variants to this model.
        stop: When a drop is known well enough; what is told is then the most that it can take.
        settings: How the sweep will run; where it runs does not count.

    Raises:
        TaskError: If the task has no images.
        CalibrationError: If a recipe quantizes activations and no ranges fit it.
    """
    settings = settings or Sweep()
    for recipe in set().union(*(variant.distinct_recipes for variant in variants)):
        if recipe.needs_calibration:
            perturber.calibration_for(recipe)
    load_s, batches = _timed(lambda: list(itertools.islice(task.batches(), PROBED_BATCHES)))
    if not batches:
        raise TaskError(f"{task.name} has no images: there is nothing to run.")
    images = len(batches[0].images)
    share = len(task) / images  # batches of this size
    with untouched(model) as state, torch.no_grad():
        plain_s, predictions = _unperturbed(model, task, batches, state.for_passes())
        run = unchanged_inputs(functools.partial(predict, task, model, batches[0]), batches[0])
        forward = Forward(model, perturber, replay=settings.replay, memory_limit=settings.memory_limit, state=state)
        probe = _Probe(forward, run, variants)
        probe.measure()
    first = checked_first(len(variants), int(share) if stop is None else 1) if probe.forward.replayer else 0
    checks_s = _checks(len(variants), first, share, plain_s, probe.variants_s) if first else 0.0
    passes_s = probe.first_s + max(0.0, share - 1) * probe.record_s + share * probe.variants_s + checks_s
    scoring_s, notes = _scoring_seconds(task, predictions, images, len(variants), stop, intervals=settings.intervals)
    return Explanation(
        variants=len(variants),
        images=len(task),
        batch_images=images,
        pass_s=plain_s * share,
        passes=passes_s / (plain_s * share),
        naive_passes=len(variants) + 1,
        scoring_s=scoring_s,
        seconds=passes_s + scoring_s + share * load_s / len(batches),
        kept_bytes=probe.kept_bytes,
        predictions_bytes=round(bytes_of(list(predictions.values())) / len(predictions) * len(task))
        * (len(variants) + 1),
        at_most=stop is not None,
        notes=(*probe.forward.notes, *probe.notes, *notes),
    )


def _checks(variants: int, first: int, batches: float, plain_s: float, variants_s: float) -> float:
    """Seconds of the checks of replay, but for those that the probe's first pass has in it.

    Args:
        variants: How many there are.
        first: How many of them are checked on the first batch.
        batches: How many there are.
        plain_s: Seconds of the unperturbed model on one.
        variants_s: Seconds of all variants on one.
    """
    late = max(0.0, min(batches - 1, variants - first))
    more = max(0, first - CHECKED_VARIANTS)
    return late * plain_s + more * (plain_s + variants_s / max(1, variants))


def _unperturbed(
    model: nn.Module, task: Task, batches: Sequence[Batch], state: ModelState
) -> tuple[float, dict[int, Any]]:
    """Seconds for a batch of the first one's size, and predictions for all."""
    predictions: dict[int, Any] = {}
    seconds = []
    for batch in [batches[0], *batches]:  # the first pass allocates
        with state.same_start():
            taken, batch_predictions = _timed(unchanged_inputs(functools.partial(predict, task, model, batch), batch))
        predictions |= zip(batch.images, batch_predictions, strict=True)
        seconds.append(taken / len(batch.images) * len(batches[0].images))
    state.learn(weights_too=False)
    return statistics.median(seconds[1:]), predictions


class _Probe:
    """Times one batch of a sweep.

    Attributes:
        first_s: Seconds of the first recorded pass with all that is done once: weights, survey, checks.
        record_s: Seconds of a later one.
        variants_s: Seconds of all variants on the batch.
        kept_bytes: Bytes that replay keeps of it.
        notes: Which variants fail.
    """

    def __init__(self, forward: Forward, run: Run, variants: Sequence[Variant]) -> None:
        self.forward = forward
        self.first_s = self.record_s = self.variants_s = 0.0
        self.kept_bytes = 0
        self.notes: list[str] = []
        self._run = run
        self._variants = variants
        self._times: defaultdict[int, list[float]] = defaultdict(list)  # by position among the probed ones
        self._failures: dict[int, str] = {}

    def measure(self) -> None:
        """Run it some times; variants that fail take no time, as a sweep runs them once at most."""
        started = clock()
        prepare_s, able = _timed(self._able)
        first_s, _ = _timed(lambda: self.forward.baseline(self._run, able))
        self.first_s = prepare_s + first_s
        step = max(1, math.ceil(len(able) / PROBED))
        probed = able[step // 2 :: step] or able[:1]
        records: list[float] = []
        for _ in range(REPEATS):
            seconds, expected = _timed(lambda: self.forward.baseline(self._run, able))
            records.append(seconds)
            self.kept_bytes = self.forward.replayer.kept_bytes if self.forward.replayer else 0
            self._time(probed, expected)
            if clock() - started > LONGEST_PROBE_S:
                break
        self.record_s = statistics.median(records)
        times = [statistics.median(seconds) for number, seconds in self._times.items() if number not in self._failures]
        self.variants_s = sum(times) / max(1, len(probed)) * len(able)
        if self._failures:
            count, why = len(self._failures), next(iter(self._failures.values()))
            self.notes.append(f"{count} of {len(probed)} probed variants fail, and are not counted: {why}")

    def _time(self, probed: Sequence[Variant], expected: Sequence[Any]) -> None:
        """Run variants on the batch that was just recorded."""
        for number, variant in enumerate(probed):
            if number in self._failures:
                continue
            try:
                seconds, _ = _timed(functools.partial(self._variant, variant, expected))
                self._times[number].append(seconds)
            except Exception as error:  # noqa: BLE001 - a sweep records it as the reason of a failed row
                self._failures[number] = f"{type(error).__name__}: {error}"

    def _able(self) -> list[Variant]:
        """The variants whose recipes fit their layers."""
        able, reasons = [], []
        for variant in self._variants:
            try:
                self.forward.perturber.touched(variant.recipes)
                able.append(variant)
            except Exception as error:  # noqa: BLE001 - a sweep records it as the reason of a failed row
                reasons.append(f"{type(error).__name__}: {error}")
        if reasons:
            self.notes.append(f"{len(reasons)} of {len(self._variants)} variants fail at once: {reasons[0]}")
        return able

    def _variant(self, variant: Variant, expected: Sequence[Any]) -> None:
        predictions = self.forward.variant(self._run, variant)
        for prediction, unperturbed in zip(predictions, expected, strict=True):
            same(prediction, unperturbed)


def _scoring_seconds(
    task: Task, predictions: Mapping[int, Any], first: int, variants: int, stop: Confidence | None, *, intervals: bool
) -> tuple[float, list[str]]:
    """Seconds that scores and intervals will take, and what is to be said about them.

    Args:
        task: Scores.
        predictions: Of some batches.
        first: How many of them are of the first batch.
        variants: How many will be scored.
        stop: When a drop is known well enough.
        intervals: Whether drops will have bounds.
    """
    whole = len(task)
    some = [dict(itertools.islice(predictions.items(), count)) for count in {first: 0, len(predictions): 0}]
    try:
        once = _line(task.score, some)
        if stop is not None and isinstance(task, MeanOfInstances) and task.instances() is not None:
            mean = _line(
                lambda predictions: [task.instance_sum(prediction) for prediction in predictions.values()], some
            )
            return (2 * variants + 1) * once(whole) + (variants + 1) * mean(whole), []
        groups = (
            min(GROUPS_OF_A_STOP if stop else GROUPS, whole) if whole >= FEWEST_IMAGES and (intervals or stop) else 0
        )
        bounds = _intervals(task, some, once, groups)
    except Exception as error:  # noqa: BLE001 - a metric need not be defined on a few images
        return 0.0, [f"scoring is not counted, as few images cannot be scored: {type(error).__name__}: {error}"]
    if stop is None:
        return (variants + 1) * (once(whole) + (bounds(whole) if groups else 0.0)), []
    looks = [whole]
    while looks[-1] > max(stop.minimum_images, FEWEST_IMAGES):
        looks.append(math.ceil(looks[-1] / LOOK_AGAIN_AT))
    return (variants + 1) * (2 * once(whole) + sum(map(bounds, looks))), []


def _intervals(
    task: Task, some: Sequence[dict[int, Any]], once: Callable[[float], float], groups: int
) -> Callable[[float], float]:
    """Seconds for scores of a number of images, and of these less each group."""
    if not isinstance(task, LeavesOut):
        halves = 2 * HALVINGS if groups and images_by_kind(task, some[0]) else 0
        return lambda images: (
            once(images) + groups * once(images * (1 - 1 / max(1, groups))) + halves * once(images / 2)
        )

    def leave_out(predictions: dict[int, Any]) -> None:
        parts = groups_and_halves(task, predictions, groups)
        scores_without(task, predictions, [*parts.left_out, *[()] * (groups - len(parts.groups))])

    return _line(leave_out, some)


def _line(work: Callable[[dict[int, Any]], Any], some: Sequence[dict[int, Any]]) -> Callable[[float], float]:
    """Seconds by the number of images, as a part that is always there and one that grows, from two numbers."""
    work(some[0])  # the first time, a task may read its ground truth
    times = [
        statistics.median(_timed(functools.partial(work, argument))[0] for _ in range(REPEATS)) for argument in some
    ]
    (few, many), (low, high) = map(len, (some[0], some[-1])), (times[0], times[-1])
    slope = max(0.0, (high - low) / (many - few)) if many > few else low / few
    return lambda images: max(0.0, low - slope * few) + slope * images


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = clock()
    result = run()
    return clock() - started, result


def duration(seconds: float) -> str:
    """Seconds, minutes or hours in words."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
