"""How often the values of a tensor occur before and after it is quantized: a histogram small enough to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from sensitivity.errors import StudyError
from sensitivity.records.arguments import check_fields

MOST_BINS = 64

MOST_VALUES = 0.999
"""The share of all values that ``Distribution.most_within`` is about."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The values of one tensor in equally wide bins, the same before and after quantization.

    Attributes:
        first: Lower edge of the first bin.
        width: Width of a bin.
        before: How many values are in each bin in float; at most 64 bins.
        after: The same when they are quantized; empty where the recipe leaves them as they are.
        low: Smallest value in float.
        high: Largest value in float.
        most_within: The absolute value that 99.9 % of the values do not exceed.
        covered: Lowest and highest value that codes of the recipe stand for; None where the recipe leaves the values
            as they are.
        cured: The same for the cure of the layer; None where it has no cure, or the cure is for another copy of the
            model, whose values are others.
        channel: The channel with the largest absolute value, from zero; None where channels were not told apart.
        channel_ratio: That value as a multiple of the median channel's; None likewise, and where the median is zero.

    Raises:
        StudyError: If these numbers are no histogram.
    """

    first: float
    width: float
    before: tuple[int, ...] = field(repr=False)
    after: tuple[int, ...] = field(repr=False)
    low: float
    high: float
    most_within: float
    covered: tuple[float, float] | None = None
    cured: tuple[float, float] | None = None
    channel: int | None = None
    channel_ratio: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, StudyError)
        if not 1 <= len(self.before) <= MOST_BINS or len(self.after) not in (0, len(self.before)):
            raise StudyError(
                f"a distribution with {len(self.before)} bins before and {len(self.after)} after quantization: give 1 "
                f"to {MOST_BINS}, and as many after as before or none."
            )
        if min(*self.before, *self.after, 0) < 0:
            raise StudyError("a distribution with a bin that holds fewer than 0 values: give counts.")
        ends = [*(self.covered or ()), *(self.cured or ()), self.channel_ratio or 0.0]
        numbers = [self.first, self.width, self.low, self.high, self.most_within, *ends]
        if self.width <= 0.0 or not all(map(math.isfinite, numbers)):
            raise StudyError(f"a distribution with bins {self.width:g} wide: give finite numbers, and a width above 0.")

    @property
    def largest(self) -> float:
        """The largest absolute value in float."""
        return max(-self.low, self.high)

    @classmethod
    def of_json(cls, plain: Mapping[str, Any] | None) -> Self | None:
        """What ``dataclasses.asdict`` made plain values of; None for None.

        Args:
            plain: Plain values.

        Raises:
            StudyError: If these numbers are no histogram.
        """
        if plain is None:
            return None
        pairs = {name: None if plain.get(name) is None else tuple(plain[name]) for name in ("covered", "cured")}
        return cls(**{**plain, **pairs, "before": tuple(plain["before"]), "after": tuple(plain["after"])})
