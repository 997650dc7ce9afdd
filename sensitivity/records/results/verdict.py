"""What an interval says of a drop, as a value."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """Whether a layer's drop matters; equal to its text, e.g. ``dip``.

    Attributes:
        DIP: The whole interval of the drop lies above the tolerance.
        HARMLESS: The whole interval lies at or below the tolerance; a gain is harmless.
        UNDECIDED: The interval has the tolerance inside, so more images are needed to tell.
    """

    DIP = "dip"
    HARMLESS = "harmless"
    UNDECIDED = "undecided"

    def __repr__(self) -> str:
        return repr(self.value)


def verdict_of_interval(low: float, high: float, limit: float) -> Verdict:
    """What an interval of a drop says.

    Args:
        low: Its lower end, in the unit of ``limit``.
        high: Its upper end.
        limit: Largest drop that does not matter.
    """
    if low > limit:
        return Verdict.DIP
    return Verdict.HARMLESS if high <= limit else Verdict.UNDECIDED
