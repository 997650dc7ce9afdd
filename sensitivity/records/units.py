"""How scores and drops are shown to people: percent and points where they are stored as fractions.

A metric whose unit is ``%`` is stored as a fraction, its score is shown in percent, and a difference of two scores is
shown in points.
"""

from __future__ import annotations

from math import isnan

ABSENT, UNDEFINED = "–", "undefined"
"""What stands for a number where there is none: in a table, and in a sentence."""
PERCENT = "%"
POINTS = "points"


def scale_of(unit: str) -> float:
    """What stored scores and drops are multiplied by for people: 100 where the unit is ``%``, else 1."""
    return 100.0 if unit == PERCENT else 1.0


def unit_of_drops(unit: str) -> str:
    """The unit of a difference of two scores: ``points`` where the unit is ``%``, else the same."""
    return POINTS if unit == PERCENT else unit


def after_score(unit: str) -> str:
    """What follows a score, with its space: `` %``, `` dB``, or nothing."""
    return f" {unit}" if unit else ""


def after_drop(unit: str) -> str:
    """What follows a difference of two scores, with its space: `` points``, `` dB``, or nothing."""
    return after_score(unit_of_drops(unit))


def score_text(score: float, unit: str) -> str:
    """A score with its unit for people: ``78.5 %``, ``undefined``.

    Args:
        score: In the unit people see.
        unit: Of the task's metric.
    """
    return UNDEFINED if isnan(score) else f"{score:.4g}{after_score(unit)}"


def drop_text(drop: float, unit: str, digits: str = ".4g") -> str:
    """A difference of two scores with its unit for people: ``0.5 points``, ``1 point``, ``undefined``.

    Args:
        drop: In the unit people see.
        unit: Of the task's metric.
        digits: How the number is written.
    """
    if isnan(drop):
        return UNDEFINED
    number = f"{drop:{digits}}"
    is_one = unit == PERCENT and number in ("1", "-1")
    return number + (after_drop(unit).removesuffix("s") if is_one else after_drop(unit))


def number_text(number: float) -> str:
    """A number of a table with four digits; a dash where there is none, as for a size that no object has."""
    return ABSENT if isnan(number) else f"{number:.4g}"
