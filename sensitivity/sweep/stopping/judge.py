"""Which variants go on, and between which bounds their drops lie.

Without a stop every variant runs on every image, and the bounds say what other images of the same kind would give. With
one, images come in a seeded random order, a variant leaves when its drop is decided, and the bounds are about this data
set: what a sweep over all images would print. Both hold for all variants of a sweep at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sensitivity.contracts import MeanOfInstances, Task
from sensitivity.records.results.resampled import total_error
from sensitivity.sweep.passes.in_parallel import in_parallel, one_thread_each
from sensitivity.sweep.passes.in_process import OnError
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.stopping.jackknife import (
    FEWEST_IMAGES,
    GROUPS,
    GROUPS_OF_A_STOP,
    Parts,
    groups_and_halves,
    growth,
    half_width,
    scores_of_parts,
    student_quantile,
)
from sensitivity.sweep.stopping.race import VIRTUAL_LOSS, Confidence, Race, with_places
from sensitivity.sweep.stopping.ranking import Estimate, StudentReach
from sensitivity.sweep.storage.results import Images, Results

LEVEL = 0.95  # of the intervals of a sweep without a stop
LOOK_AGAIN_AT = 1.5  # times the images of the last look, where a look scores everything so far


class Judge(Protocol):
    """Follows a sweep batch by batch.

    Attributes:
        order: Positions of the images in the order in which they are to be visited; None for the task's own.
        meaning: What its intervals hold, in words.
    """

    order: Sequence[int] | None
    meaning: str

    def running(self) -> list[Variant]:
        """The variants that need more images."""

    def take(self, images: Images) -> None:
        """Take note that the variants that are running ran on a batch."""

    def estimate(self, variant: Variant) -> Estimate | None:
        """What is known of a variant's drop; None where no interval can be given."""

    def drops(self) -> list[tuple[Variant, float]]:
        """Drops as far as they are known, for a person who waits."""


def judge_of(
    stop: Confidence | None,
    task: Task,
    variants: Sequence[Variant],
    results: Results,
    *,
    intervals: bool = True,
    on_error: OnError = "record",
    processes: int = 1,
) -> Judge:
    """The judge for a task: every image without a stop; a race for a mean; looks at growing samples for the rest.

    Args:
        stop: When a drop is known well enough; None for every image.
        task: Data and metric.
        variants: Those that it judges.
        results: What is predicted, as it comes.
        intervals: Whether there are to be bounds without a stop.
        on_error: What becomes of a variant that the metric fails on.
        processes: That may score at a time.
    """
    if stop is None:
        return EveryImage(task, variants, results, intervals=intervals)
    if isinstance(task, MeanOfInstances):
        counts = task.instances()
        if counts is not None:
            race = Race([str(n) for n in range(len(variants))], counts, stop)
            sign = 1 if task.higher_is_better else -1
            return Means(race, task, sign, variants, results, on_error=on_error)
    return Samples(stop, task, variants, results, processes=processes)


class EveryImage:
    """Runs every variant on every image; bounds by leaving groups of images out, if there are to be ``intervals``."""

    order: Sequence[int] | None = None

    def __init__(self, task: Task, variants: Sequence[Variant], results: Results, *, intervals: bool = True) -> None:
        self.meaning = f"{LEVEL:.0%}, all layers at once, other images of this kind" if intervals else ""
        self.intervals = intervals
        self._task = task
        self._variants = variants
        self._results = results
        self._drops = _DropsWithout(task, results, GROUPS)

    def running(self) -> list[Variant]:
        """All of them."""
        return list(self._variants)

    def take(self, images: Images) -> None:
        """Nothing to note."""

    def estimate(self, variant: Variant) -> Estimate | None:
        """The drop on all images, and bounds for other images of the same kind, for all variants at once.

        None where there are too few images or none of them moved the metric; bounds are NaN where the metric is not a
        number without some of the images.
        """
        images = self._results.images_of(variant)
        if not self.intervals or len(images) < FEWEST_IMAGES:
            return None
        drop, without, shifts = self._drops.of(variant)
        half = half_width(without, 1 - (1 - LEVEL) / len(self._variants), shifts)
        if half is None:
            return None
        return Estimate(drop, drop - half, drop + half, len(images), "undecided", without, shifts)

    def drops(self) -> list[tuple[Variant, float]]:
        """Drops over the images so far."""
        failed = self._results.failure
        return [(variant, self._drops.without_bounds(variant)) for variant in self._variants if failed(variant) is None]


class Samples:
    """Stops for a metric that is no mean: looks again each time the sample of images has grown by half.

    At a look the drop is scored over the images so far; its standard error is that of leaving groups out, less what the
    share of the data set already seen takes away, and what the images still to come may shift it. Every look of every
    variant may be wrong with the same small probability, and together with no more than ``1 - level``.
    """

    def __init__(
        self, stop: Confidence, task: Task, variants: Sequence[Variant], results: Results, *, processes: int = 1
    ) -> None:
        self.order: Sequence[int] | None = np.random.default_rng(stop.seed).permutation(len(task)).tolist()
        self.meaning = _of_this_data_set(stop)
        self._stop = stop
        self._task = task
        self._variants = list(variants)
        self._results = results
        self._drops = _DropsWithout(task, results, GROUPS_OF_A_STOP)
        self._estimates: dict[Variant, Estimate] = {}
        self._looks = _looks(max(stop.minimum_images, FEWEST_IMAGES), len(task))
        self._looks_in_all = len(self._looks)
        self._seen = 0
        self._processes = processes

    def running(self) -> list[Variant]:
        """Those not decided yet."""
        known = self._estimates
        undecided = [
            variant for variant in self._variants if variant not in known or known[variant].status == "undecided"
        ]
        return [variant for variant in undecided if self._results.failure(variant) is None]

    def take(self, images: Images) -> None:
        """Look at the running variants, if a look is due."""
        self._seen += len(images)
        due = [look for look in self._looks if look <= self._seen]
        if not due:
            return
        self._looks = self._looks[len(due) :]
        running = self.running()
        with one_thread_each(self._processes):
            looks = in_parallel(self._look, running, processes=self._processes)
            self._estimates |= zip(running, looks, strict=True)
        self._place()

    def _place(self) -> None:
        """Stop the layers whose place among the worst is known, if that was asked for."""
        if self._stop.top is None:
            return
        for group in _comparable(self._variants, self._results):
            estimates = [self._estimates[variant] for variant in group]
            self._estimates |= zip(group, with_places(self._stop, estimates), strict=True)

    def estimate(self, variant: Variant) -> Estimate | None:
        """What the last look found."""
        return self._estimates.get(variant)

    def drops(self) -> list[tuple[Variant, float]]:
        """Drops as the last look found them."""
        known = self._estimates
        return [(variant, known[variant].drop) for variant in self._variants if variant in known]

    def _look(self, variant: Variant) -> Estimate:
        try:
            return self._seen_of(variant)
        except Exception:  # noqa: BLE001 - a metric may fail on these images; scoring the rows tells where it does
            return Estimate(math.nan, -math.inf, math.inf, self._seen, "undecided")

    def _seen_of(self, variant: Variant) -> Estimate:
        whole, looked_at = len(self._task), self._seen
        if looked_at >= whole:
            drop = self._drops.without_bounds(variant)
            return Estimate(drop, drop, drop, looked_at, self._stop.verdict(drop, drop, drop))
        drop, without, shifts = self._drops.of(variant)
        spread, grown = math.sqrt(1 - looked_at / whole), self._drops.growth(variant)
        imagined = spread * VIRTUAL_LOSS * self._stop.tolerance / looked_at
        error = math.hypot(imagined, total_error(without, shifts, spread=spread, growth=grown))
        if not math.isfinite(error):
            return Estimate(drop, -math.inf, math.inf, looked_at, "undecided")
        freedom, chance = len(without) - 1, (1 - self._stop.level) / (len(self._variants) * self._looks_in_all)
        half = error * student_quantile(1 - chance, freedom)
        low, high = drop - half, drop + half
        status, reach = self._stop.verdict(drop, low, high), StudentReach(error, freedom, self._looks_in_all)
        return Estimate(drop, low, high, looked_at, status, reach=reach)


class Means:
    """Stops for a mean over instances: a race, judged after every batch."""

    def __init__(
        self,
        race: Race,
        task: MeanOfInstances,
        sign: int,
        variants: Sequence[Variant],
        results: Results,
        *,
        on_error: OnError,
    ) -> None:
        self.order: Sequence[int] | None = race.order.tolist()
        self.meaning = _of_this_data_set(race.confidence)
        self._race = race
        self._task = task
        self._sign = sign
        self._on_error = on_error
        self._variants = dict(zip(map(str, range(len(variants))), variants, strict=True))
        self._keys = {variant: key for key, variant in self._variants.items()}
        self._results = results

    def running(self) -> list[Variant]:
        """Those not decided yet."""
        return [self._variants[key] for key in self._running()]

    def take(self, images: Images) -> None:
        """Give the race what each running variant lost on these images."""
        expected = self._results.expected(images)
        before = {image: self._task.instance_sum(prediction) for image, prediction in expected.items()}
        for key in self._running():
            changed = self._results.changed_on(self._variants[key], images)
            try:
                after = before | {image: self._task.instance_sum(prediction) for image, prediction in changed.items()}
            except Exception as error:  # of these predictions alone; computed again when resumed
                if self._on_error == "raise":
                    raise
                reason = f"instance_sum fails: {type(error).__name__}: {error}"
                self._results.keep_failure(self._variants[key], images, reason, lasting=False)
                continue
            losses = [self._sign * (before[image] - after[image]) for image in images]
            if not all(map(math.isfinite, losses)):
                reason = "instance_sum is not a finite number"
                self._results.keep_failure(self._variants[key], images, reason, lasting=False)
                continue
            self._race.add(key, images, losses)
        comparable = _comparable(list(self._variants.values()), self._results)
        self._race.place([[self._keys[variant] for variant in group] for group in comparable])

    def estimate(self, variant: Variant) -> Estimate | None:
        """What the race knows of it."""
        return self._race.estimate(self._keys[variant])

    def drops(self) -> list[tuple[Variant, float]]:
        """Drops as the race knows them."""
        return [(variant, self._race.estimate(key).drop) for key, variant in self._variants.items()]

    def _running(self) -> list[str]:
        return [key for key in self._race.running if self._results.failure(self._variants[key]) is None]


class _DropsWithout:
    """Drops over the images of a variant, and over these less each group; the baseline's side is scored once."""

    def __init__(self, task: Task, results: Results, groups: int) -> None:
        self._task = task
        self._results = results
        self._groups = groups
        self._baselines: dict[Images, tuple[Parts, list[float]]] = {}
        self._growths: dict[Images, float] = {}

    def of(self, variant: Variant) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
        """The drop, the drop without each group, and its shifts; see ``Parts.read``."""
        images = self._results.images_of(variant)
        expected = self._results.expected(images)
        if images not in self._baselines:
            parts = groups_and_halves(self._task, expected, self._groups)
            self._baselines[images] = parts, scores_of_parts(self._task, expected, parts)
        parts, before = self._baselines[images]
        changed = self._results.changed(variant)
        if not changed:
            return 0.0, (0.0,) * len(parts.groups), (0.0,) * len(parts.halves)
        after = scores_of_parts(self._task, expected | changed, parts)
        sign = 1.0 if self._task.higher_is_better else -1.0
        return parts.read([sign * (b - a) for b, a in zip(before, after, strict=True)])

    def growth(self, variant: Variant) -> float:
        """How many times a shift may come on the way to all images of the task."""
        images = self._results.images_of(variant)
        if images not in self._growths:
            self._growths[images] = growth(self._task, self._results.expected(images))
        return self._growths[images]

    def without_bounds(self, variant: Variant) -> float:
        """The drop alone."""
        expected, changed = self._results.expected(self._results.images_of(variant)), self._results.changed(variant)
        if not changed:
            return 0.0
        before, after = (self._task.score(some)[self._task.metric] for some in (expected, expected | changed))
        return before - after if self._task.higher_is_better else after - before


def _comparable(variants: Sequence[Variant], results: Results) -> list[list[Variant]]:
    """The variants of each recipe, without those that failed and have no drop."""
    groups: dict[str, list[Variant]] = {}
    for variant in dict.fromkeys(variants):
        if results.failure(variant) is None:
            groups.setdefault(variant.recipe.digest, []).append(variant)
    return list(groups.values())


def _of_this_data_set(stop: Confidence) -> str:
    return f"{100 * stop.level:.4g}%, all layers at once, this data set"


def _looks(first: int, whole: int) -> list[int]:
    """Numbers of images at which to look, the last one all of them."""
    looks: list[int] = []
    look = float(first)
    while look < whole:
        looks.append(math.ceil(look))
        look *= LOOK_AGAIN_AT
    return [*looks, whole]
