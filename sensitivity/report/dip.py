"""Where each layer of a study hangs below the baseline: what pictures and pages draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite

from sensitivity.records import Layer, Measurement, StudyRecord
from sensitivity.records.results.verdict import Verdict
from sensitivity.report.reading import Reading


@dataclass(frozen=True, slots=True)
class Dip:
    """One layer in one panel; numbers in the unit people see.

    Attributes:
        position: Place on the x axis.
        layer: The layer.
        score: Score with it perturbed; None where there is no result.
        ends: Ends of the score's interval, in no order; None where there is none.
        verdict: Whether the drop matters; None where nobody can tell.
    """

    position: int
    layer: Layer
    score: float | None
    ends: tuple[float, float] | None
    verdict: Verdict | None


def dips_of(reading: Reading, layers: Sequence[Layer], recipe: str) -> list[Dip]:
    """The layers of one panel, left to right.

    A score is the baseline minus the drop rather than ``Measurement.score``: where a layer was decided on few images,
    its drop was measured against the baseline on the same images.
    """
    study = reading.study
    measurements = {m.layer: m for m in study.of_recipe(recipe)}
    panel = []
    for position, layer in enumerate(layers):
        measurement = measurements.get(layer.name)
        score = None if measurement is None else _score(study, measurement)
        ends = None if measurement is None or score is None else _ends(study, measurement)
        panel.append(Dip(position, layer, score, ends, reading.verdicts[recipe].get(layer.name)))
    return panel


def hang_from(study: StudyRecord, dips: Sequence[Dip]) -> float:
    """Where the stems begin: the baseline, or the best score where that is infinite (SQNR of an exact output)."""
    baseline = study.baseline.value * study.scale
    if isfinite(baseline):
        return baseline
    scores = [dip.score for dip in dips if dip.score is not None]
    best = max if study.higher_is_better else min
    return best(scores, default=0.0)


def sign_of(study: StudyRecord) -> float:
    """1 where a higher score is better, else -1."""
    return 1.0 if study.higher_is_better else -1.0


def stage_runs(layers: Sequence[Layer]) -> list[tuple[str, int, int]]:
    """Name, first and last position of each run of layers in one stage."""
    runs = []
    for stage, run in groupby(enumerate(layers), key=lambda pair: pair[1].stage):
        positions = [position for position, _ in run]
        runs.append((stage, positions[0], positions[-1]))
    return runs


def _score(study: StudyRecord, measurement: Measurement) -> float | None:
    if measurement.drop is None:
        return None
    score = study.baseline.value - sign_of(study) * measurement.drop
    if not isfinite(score) and measurement.score is not None:
        score = measurement.score
    return score * study.scale if isfinite(score) else None


def _ends(study: StudyRecord, measurement: Measurement) -> tuple[float, float] | None:
    if measurement.drop_low is None or measurement.drop_high is None:
        return None
    baseline, sign = study.baseline.value, sign_of(study)
    low, high = (study.scale * (baseline - sign * drop) for drop in (measurement.drop_low, measurement.drop_high))
    if study.unit != "%":
        return low, high
    inside = [min(max(end, 0.0), 100.0) for end in (low, high)]  # no share lies beyond
    return inside[0], inside[1]
