"""How scores and drops are shown to people: percent and points where they are stored as fractions.

A metric whose unit is ``%`` is stored as a fraction, its score is shown in percent, and a difference of two scores is
shown in points.
"""

from __future__ import annotations

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
