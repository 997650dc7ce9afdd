"""What labels look like that are counted from another number, or in another order, than the truth.

Everything is read off how often each predicted label met each true one. A model that is only weak, or gives the same
answer to everything, follows no such rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

Meetings: TypeAlias = Mapping[tuple[int, int], float]
"""How often a predicted label (first) met a true label (second)."""

LEAST_MEETINGS = 8
_RIGHT = 0.2
_CONSISTENT = 0.8


def share_right(meetings: Meetings, read_as: Mapping[int, int] | None = None) -> float:
    """Share of the meetings in which the predicted label is the true one, in [0, 1].

    Args:
        meetings: At least one.
        read_as: The label that each predicted label would become; others are wrong. None leaves them as they are.
    """
    total = sum(meetings.values())
    right = sum(
        count
        for (predicted, true), count in meetings.items()
        if (predicted if read_as is None else read_as.get(predicted)) == true
    )
    return right / total


def is_better_reading(meetings: Meetings, read_as: Mapping[int, int]) -> bool:
    """Whether labels read in this way are right far more often, of more than one or two true labels.

    A model of low accuracy shows it as well as a good one: what counts is that hardly anything is right as it is.

    Args:
        meetings: At least one.
        read_as: The label that each predicted label would become.
    """
    hits: dict[int, float] = {}
    for (predicted, true), count in meetings.items():
        if read_as.get(predicted) == true:
            hits[true] = hits.get(true, 0.0) + count
    total, all_hits = sum(meetings.values()), sum(hits.values())
    if all_hits < max(_RIGHT * total, 5) or share_right(meetings) > all_hits / total / 4:
        return False
    return len(hits) >= 2 and max(hits.values()) <= 0.75 * all_hits


def shifted(labels: Iterable[int], shift: int) -> dict[int, int]:
    """Each label, and the label that many numbers higher."""
    return {label: label + shift for label in labels}


def consistent_exchange(meetings: Meetings) -> dict[int, int] | None:
    """The true label that each predicted label stands for, if nearly all do and hardly one stands for itself.

    Args:
        meetings: Of what was predicted; labels that were met fewer than three times are not looked at.

    Returns:
        None where there is no such rule: most labels are right, one label does not stand for one truth, or fewer than
        two different labels are known.
    """
    by_predicted: dict[int, dict[int, float]] = {}
    for (predicted, true), count in meetings.items():
        by_predicted.setdefault(predicted, {})[true] = by_predicted.get(predicted, {}).get(true, 0.0) + count
    often = {label: truths for label, truths in by_predicted.items() if sum(truths.values()) >= 3}
    total = sum(meetings.values())
    exchange = {label: max(truths, key=lambda true: truths[true]) for label, truths in often.items()}
    consistent = sum(often[label][true] for label, true in exchange.items())
    if total < LEAST_MEETINGS or len(exchange) < 2 or len(set(exchange.values())) < len(exchange):
        return None
    if consistent < _CONSISTENT * total or share_right(meetings) > _RIGHT:
        return None
    return {label: true for label, true in exchange.items() if label != true}


def some_of(exchange: Mapping[int, int]) -> str:
    """A few pairs of an exchange in words: ``2 stands for 0, 0 for 1``."""
    first, *others = list(exchange.items())[:3]
    return ", ".join([f"{first[0]} stands for {first[1]}", *(f"{label} for {true}" for label, true in others)])
