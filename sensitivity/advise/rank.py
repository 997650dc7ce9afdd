"""The measured layers of a study, the one that hurts most first."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isnan, nan, sqrt
from statistics import fmean

from sensitivity.records import Measurement, StudyRecord
from sensitivity.records.signals import ESTIMATES, SIMILARITIES

ONE_AT_A_TIME = "one-at-a-time"
FEWEST_LAYERS = 3


def worst_first(study: StudyRecord, recipe: str | None = None) -> list[Measurement]:
    """The measurements that have a drop, the layer that hurts most first; ties stay in execution order.

    With one layer disturbed at a time that is the largest drop. With all but one disturbed it is the smallest: the
    layer whose protection leaves the best model.

    Args:
        study: What was measured.
        recipe: Name of the recipe; None where the study has only one.

    Raises:
        StudyError: If the recipe is unknown, or left out where there are several.
    """
    measured = [m for m in study.of_recipe(recipe) if has_drop(m)]
    direction = -1.0 if study.direction == ONE_AT_A_TIME else 1.0
    return sorted(measured, key=lambda m: direction * drop_of(m))


def drop_of(measurement: Measurement) -> float:
    """The drop as stored (a fraction where the study's unit is ``%``); NaN where the measurement came to none."""
    return nan if measurement.drop is None else measurement.drop


def has_drop(measurement: Measurement) -> bool:
    """Whether the measurement came to a number."""
    return not isnan(drop_of(measurement))


def agreement(study: StudyRecord, recipe: str | None = None) -> dict[str, float]:
    """Spearman's rank correlation of each signal and estimate with the measured drops.

    1 means that the signal puts the layers in the order of their drops, 0 that it says nothing of them; the sign of
    SQNR and cosine, which are high where little is disturbed, is turned for that. Drops that are noise have a random
    order, so the correlation of a good signal with them is low as well.

    Args:
        study: What was measured.
        recipe: Name of the recipe; None where the study has only one.

    Returns:
        Signal to correlation, over the layers that have both; without signals that fewer than three layers have, or
        that are the same for all.

    Raises:
        StudyError: If the recipe is unknown, or left out where there are several.
    """
    measured = [m for m in study.of_recipe(recipe) if has_drop(m)] if study.direction == ONE_AT_A_TIME else []
    found = {}
    for name in (*ESTIMATES, *SIMILARITIES):
        sign = 1.0 if name in ESTIMATES else -1.0
        pairs = [(sign * m.signals[name], drop_of(m)) for m in measured if isfinite(m.signals.get(name, nan))]
        correlation = spearman([one for one, _ in pairs], [drop for _, drop in pairs])
        if correlation is not None:
            found[name] = correlation
    return found


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation with mean ranks for ties; None for fewer than three pairs or a constant side."""
    if len(one) < FEWEST_LAYERS:
        return None
    left, right = _ranks(one), _ranks(other)
    middle = fmean(left)  # the same for both: ties share their places
    products = sum((a - middle) * (b - middle) for a, b in zip(left, right, strict=True))
    spread = sqrt(sum((a - middle) ** 2 for a in left) * sum((b - middle) ** 2 for b in right))
    return products / spread if spread else None


def _ranks(values: Sequence[float]) -> list[float]:
    """Places from 1 on, the mean of their places for equal values."""
    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered, 1)))}
    last = {value: place for place, value in enumerate(ordered, 1)}
    return [(first[value] + last[value]) / 2 for value in values]
