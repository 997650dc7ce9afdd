"""The measured layers of a study, the one that hurts most first."""

from __future__ import annotations

from math import isfinite, isnan, nan

from sensitivity.records import Measurement, StudyRecord
from sensitivity.records.correlation import spearman
from sensitivity.records.results.signals import ESTIMATES, SIMILARITIES
from sensitivity.records.results.study import RecipeLike

ONE_AT_A_TIME = "one-at-a-time"
FEWEST_LAYERS = 3


def worst_first(study: StudyRecord, recipe: RecipeLike | None = None) -> list[Measurement]:
    """The measurements that have a drop, the layer that hurts most first; ties stay in execution order.

    With one layer perturbed at a time that is the largest drop. With all but one perturbed it is the smallest: the
    layer whose protection leaves the best model.

    Args:
        study: What was measured.
        recipe: The recipe or its name; None where the study has only one.

    Raises:
        StudyError: If the recipe is unknown, or left out where there are several.
    """
    measured = [m for m in study.of_recipe(recipe) if has_drop(m)]
    direction = -1.0 if study.direction == ONE_AT_A_TIME else 1.0
    return sorted(measured, key=lambda m: direction * stored_drop(m))


def stored_drop(measurement: Measurement) -> float:
    """The drop as stored (a fraction where the study's unit is ``%``); NaN where the measurement came to none."""
    return nan if measurement.drop is None else measurement.drop


def has_drop(measurement: Measurement) -> bool:
    """Whether the measurement came to a number."""
    return not isnan(stored_drop(measurement))


def rank_agreement(study: StudyRecord, recipe: RecipeLike | None = None) -> dict[str, float]:
    """Spearman's rank correlation of each signal and estimate with the measured drops.

    1 means that the signal puts the layers in the order of their drops, 0 that it says nothing of them; the sign of
    SQNR and cosine, which are high where little is perturbed, is turned for that. Drops that are noise have a random
    order, so the correlation of a good signal with them is low as well.

    Args:
        study: What was measured.
        recipe: The recipe or its name; None where the study has only one.

    Returns:
        Signal to correlation, over the layers that have both; without signals that fewer than three layers have, or
        that are the same for all.

    Raises:
        StudyError: If the recipe is unknown, or left out where there are several.
    """
    measured = [m for m in study.of_recipe(recipe) if has_drop(m)] if study.direction == ONE_AT_A_TIME else []
    correlations = {}
    for name in (*ESTIMATES, *SIMILARITIES):
        sign = 1.0 if name in ESTIMATES else -1.0
        pairs = [(sign * m.signals[name], stored_drop(m)) for m in measured if isfinite(m.signals.get(name, nan))]
        correlation = spearman([signal for signal, _ in pairs], [drop for _, drop in pairs])
        if len(pairs) >= FEWEST_LAYERS and not isnan(correlation):
            correlations[name] = correlation
    return correlations
