"""The measured layers of a study, the one that hurts most first."""

from __future__ import annotations

from math import isnan, nan

from sensitivity.records import Measurement, StudyRecord

ONE_AT_A_TIME = "one-at-a-time"


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
