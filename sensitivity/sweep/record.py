"""What a sweep found, as the record of a study."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

import sensitivity
from sensitivity.contracts import Task
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.perturber import Perturber
from sensitivity.records import Recipe, StudyInfo, StudyRecord
from sensitivity.records.results.info import IntervalOf
from sensitivity.records.results.note import Note, NoteKind
from sensitivity.sweep.plan import Direction
from sensitivity.sweep.scoring import SweepOutcome
from sensitivity.sweep.stopping.judge import LEVEL
from sensitivity.sweep.stopping.race import Confidence
from sensitivity.sweep.storage.claim import calibration_images
from sensitivity.weights import weights_digest

LIKELY_FRACTIONS = (0.001, 0.02)  # from 0.1 to 2 points: tolerances were fractions before they were points


def study_record(
    outcome: SweepOutcome,
    task: Task,
    layers: LayerTable,
    recipes: Sequence[Recipe],
    perturber: Perturber,
    *,
    direction: Direction,
    stop: Confidence | None,
    started: float,
) -> StudyRecord:
    """The record of a sweep.

    Args:
        outcome: What the sweep found.
        task: What it scored.
        layers: All layers of the model, measured or not.
        recipes: What was done to the layers.
        perturber: Knows the model and the ranges that were used.
        direction: Which layers were perturbed at a time.
        stop: When a drop was known well enough, in the unit people see.
        started: What ``time.perf_counter`` said when the analysis began.
    """
    return StudyRecord(
        model=layers.model,
        task=task.name,
        metric=task.metric,
        unit=task.unit,
        higher_is_better=task.higher_is_better,
        baseline=outcome.baseline,
        layers=tuple(layers),
        measurements=tuple(outcome.measurements),
        recipes={recipe.name: recipe for recipe in recipes},
        direction=direction,
        skipped=layers.skipped,
        notes=(*outcome.notes, *remarks_on(stop, task)),
        info=StudyInfo(
            seconds=round(time.perf_counter() - started, 3),
            torch=torch.__version__,
            version=sensitivity.__version__,
            weights=weights_digest(perturber.model),
            data=task.digest(),
            calibration_images=calibration_images(recipes, perturber),
            intervals=outcome.intervals,
            interval_level=(stop.level if stop else LEVEL) if outcome.intervals else None,
            interval_of=(IntervalOf.THIS_DATA_SET if stop else IntervalOf.OTHER_IMAGES) if outcome.intervals else None,
            tolerance=stop.tolerance if stop else None,
            images=len(task),
        ),
    )


def remarks_on(stop: Confidence | None, task: Task) -> tuple[Note, ...]:
    """A tolerance that was probably meant as a fraction, where the metric is in percent; it is taken as it is given."""
    if stop is None or task.unit != "%" or not LIKELY_FRACTIONS[0] <= stop.tolerance <= LIKELY_FRACTIONS[1]:
        return ()
    text = (
        f"stop=Confidence(tolerance={stop.tolerance:g}) is {stop.tolerance:g} points of {task.metric}, which takes "
        "very many images to decide: tolerances are in points, as drops are shown. If you meant the fraction "
        f"{stop.tolerance:g}, give tolerance={100 * stop.tolerance:g}."
    )
    return (Note(NoteKind.REMARK, text),)
