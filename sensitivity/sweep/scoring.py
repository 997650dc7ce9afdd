"""Scores of what a sweep found: a metric that fails, or is interrupted, costs the rows that need it and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from sensitivity.contracts import Task
from sensitivity.errors import SensitivityError, TaskError
from sensitivity.records import Measurement, Note, NoteKind, Score, Status
from sensitivity.score import score_of
from sensitivity.sweep.passes.in_parallel import in_parallel, one_thread_each
from sensitivity.sweep.passes.in_process import OnError
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.reach import note_of
from sensitivity.sweep.stopping.judge import EveryImage, Judge
from sensitivity.sweep.stopping.ranking import Estimate
from sensitivity.sweep.storage.results import Images, Results

_DECIDED = {
    "below": "drop at most the tolerance",
    "above": "drop beyond the tolerance",
    "narrow": "drop known as well as was asked for",
    "top": "among the worst that were asked for",
    "not-top": "not among the worst that were asked for",
}


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep found.

    Attributes:
        baseline: Score with nothing perturbed.
        measurements: One for each variant, in the order given.
        notes: What a reader should know of how it was measured.
        intervals: What the intervals of the drops hold, in words.
    """

    baseline: Score
    measurements: list[Measurement]
    notes: list[Note]
    intervals: str


class Scoring:
    """Scores the variants of a sweep.

    Args:
        task: Data and metric.
        judge: Knows the intervals.
        results: What was predicted.
        on_error: What becomes of a variant that the metric fails on: ``record`` or ``raise``.
        unreached: Why a variant's layer was not reached, by the digest of the variant.
        processes: That may score at a time.
    """

    def __init__(
        self,
        task: Task,
        judge: Judge,
        results: Results,
        *,
        on_error: OnError,
        unreached: Mapping[str, str] = MappingProxyType({}),
        processes: int = 1,
    ) -> None:
        self._task = task
        self._judge = judge
        self._results = results
        self._on_error = on_error
        self._unreached = unreached
        self._processes = processes
        self._notes: list[Note] = []
        self._without_bounds: list[str] = []  # why, of the variant at hand
        self._intervals = isinstance(judge, EveryImage) and judge.intervals  # until somebody interrupts
        self._hurried = False  # somebody did
        self._scores = True  # until it happens again

    def outcome(self, variants: Sequence[Variant], notes: Sequence[Note]) -> SweepOutcome:
        """Score everything.

        Args:
            variants: What was measured.
            notes: What a reader should know so far.

        Raises:
            TaskError: If the unperturbed model cannot be scored, or not with a number.
        """
        with one_thread_each(self._processes):
            return self._outcome(variants, notes)

    def _outcome(self, variants: Sequence[Variant], notes: Sequence[Note]) -> SweepOutcome:
        baseline = self._baseline()
        if baseline.value == 0.0 and self._task.higher_is_better and self._task.unit == "%":
            self._notes.append(Note(NoteKind.REMARK, _nothing_found(baseline)))
        rows, without_bounds = self._rows(variants, baseline)
        if self._unreached:
            names = [variant.layer.name for variant in variants if variant.digest in self._unreached]
            self._notes.append(note_of(names))
        if without_bounds:
            count, why = len(without_bounds), without_bounds[0]
            text = f"no interval for {count} of {len(variants)} measurements: {why}"
            self._notes.append(Note(NoteKind.NO_INTERVAL, text))
        return SweepOutcome(baseline, rows, [*self._results.notes, *notes, *self._notes], self._judge.meaning)

    def _baseline(self) -> Score:
        try:
            baseline = score_of(self._task, self._results.expected())
        except KeyboardInterrupt:
            if not self._scores:
                raise
            self._interrupted()  # without this one there is no study
            return self._baseline()
        except SensitivityError:
            raise
        except Exception as error:
            raise TaskError(f"{self._task.name} cannot score the unperturbed model: {_said(error)}") from error
        if math.isnan(baseline.value):
            raise TaskError(
                f"{self._task.metric!r} of the unperturbed model is not a number on the {baseline.images} images of "
                f"{self._task.name}, so no layer can be judged by it. Where the metric has nothing to count (no object "
                "of a size or class), choose another metric or more images; where the model predicts NaN, check its "
                "weights and inputs."
            )
        return baseline

    def _rows(self, variants: Sequence[Variant], baseline: Score) -> tuple[list[Measurement], list[str]]:
        """A row for each variant, and why some have no bounds, once for each of them."""
        rows: list[Measurement] = []
        without_bounds: list[str] = []
        find = partial(self._noted_row, baseline=baseline)
        while len(rows) < len(variants):
            left = variants[len(rows) :]
            try:
                for row, why in in_parallel(find, left, processes=1 if self._hurried else self._processes):
                    rows.append(row)
                    without_bounds += why
            except KeyboardInterrupt:  # while others scored; what they have not told is scored here
                self._interrupted()
        return rows, without_bounds

    def _noted_row(self, variant: Variant, baseline: Score) -> tuple[Measurement, list[str]]:
        """A row, and why it has no bounds; of a variant alone, since it may be found in another process."""
        self._without_bounds = []
        return self._row(variant, baseline), self._without_bounds

    def _row(self, variant: Variant, baseline: Score) -> Measurement:
        if variant.digest in self._unreached:
            return self._missing(variant, Status.SKIPPED, self._unreached[variant.digest])
        failure, images = self._results.failure(variant), self._results.images_of(variant)
        if failure is not None:
            return self._missing(variant, Status.FAILED, failure)
        if not images:
            return self._missing(variant, Status.SKIPPED, "interrupted before it ran on a whole batch")
        try:
            if self._scores:
                return self._scored(variant, images, baseline)
        except KeyboardInterrupt:
            self._interrupted()
            return self._row(variant, baseline)
        except Exception as error:
            if self._on_error == "raise":
                raise
            return self._missing(variant, Status.FAILED, f"{self._task.metric} cannot be computed: {_said(error)}")
        return self._missing(variant, Status.INTERRUPTED, "before it was scored")

    def _interrupted(self) -> None:
        if not self._hurried:
            self._hurried = True
            if self._intervals:
                self._note_interrupt("no interval")
            self._intervals = False
        else:
            self._scores = False
            self._note_interrupt("none")

    def _note_interrupt(self, lack: str) -> None:
        text = f"interrupted while scores were computed: the remaining rows have {lack}"
        self._notes.append(Note(NoteKind.INTERRUPTED, text))

    def _scored(self, variant: Variant, images: Images, baseline: Score) -> Measurement:
        task, expected, changed = self._task, self._results.expected(images), self._results.changed(variant)
        everything = len(images) == baseline.images
        before = baseline if everything else score_of(task, expected)
        after = score_of(task, expected | changed) if changed else before
        if not math.isfinite(after.value):
            wrong = "not a number" if math.isnan(after.value) else f"{after.value}, no finite number"
            return self._missing(variant, Status.FAILED, f"{task.metric} is {wrong}")
        sign = 1.0 if task.higher_is_better else -1.0
        estimate = self._estimate(variant)
        drop = sign * (before.value - after.value)
        if not everything and estimate is not None and math.isfinite(estimate.drop):
            drop = estimate.drop
        status, reason = _status(estimate, len(images), len(self._judge.order or ()) or len(task))
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
            seconds=self._results.seconds[variant.digest],
            drops_without=() if low is None or estimate is None else estimate.without,
            drop_shifts=() if low is None or estimate is None else estimate.shifts,
        )

    def _estimate(self, variant: Variant) -> Estimate | None:
        """What the judge knows; nothing where the metric fails on some of the images, which is noted."""
        if not isinstance(self._judge, EveryImage):
            return self._judge.estimate(variant)
        if not self._intervals:
            return None
        try:
            estimate = self._judge.estimate(variant)
        except Exception as error:  # noqa: BLE001 - a metric need not be defined on a part of the images
            self._without_bounds.append(f"without some of the images {self._task.metric} fails: {_said(error)}")
            return None
        if estimate is not None and math.isnan(estimate.low):
            self._without_bounds.append(f"without some of the images {self._task.metric} is not a number")
        return estimate

    def _missing(self, variant: Variant, status: Status, reason: str) -> Measurement:
        seconds = self._results.seconds[variant.digest]
        return Measurement(
            variant.layer.name, variant.recipe.name, None, None, status=status, reason=reason, seconds=seconds
        )


def _nothing_found(baseline: Score) -> str:
    return (
        f"{baseline.metric} of the unperturbed model is 0 on {baseline.images} images, so that no drop can be seen. "
        "Compare what the adapter returns with the annotations (order and unit of boxes, labels, thresholds), and look "
        "at what preprocess makes of an image."
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _status(estimate: Estimate | None, images: int, whole: int) -> tuple[Status, str]:
    if images >= whole:
        return Status.MEASURED, ""
    if estimate is None or estimate.status == "undecided":
        return Status.INTERRUPTED, f"after {images} of {whole} images"
    return Status.DECIDED, f"{_DECIDED[estimate.status]}, after {images} of {whole} images"


def _bounds(estimate: Estimate | None) -> tuple[float | None, float | None]:
    """Finite bounds, or none."""
    if estimate is None or not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return None, None
    return estimate.low, estimate.high
