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
