"""The diagnosis that a user holds: the record of each layer's damage and cure, with its table and picture.

Opening one needs no torch; pandas and matplotlib are imported when a table or a figure is asked for.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sensitivity.errors import StudyError
from sensitivity.records.arguments import checked
from sensitivity.records.results.diagnosis import DiagnosisRecord
from sensitivity.report import damage

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class Diagnosis(DiagnosisRecord):
    """What each layer suffers from and what cures it: a sequence of findings in execution order, also by name."""

    @classmethod
    @checked(StudyError)
    def of(cls, record: DiagnosisRecord) -> Self:
        """The same findings with the methods of this class."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(DiagnosisRecord)})

    def table(self) -> DataFrame:
        """One row for each layer in execution order; what was not measured is NaN or empty."""
        return damage.frame(self)

    @checked(StudyError)
    def plot(self, path: str | Path | None = None, *, label: int = 6) -> Figure:
        """Every layer's damage as a dip, with an arrow to where its cure brings it; see ``report.figures.cures``.

        Args:
            path: Where to save it, ``.png``, ``.svg`` or ``.pdf``; None does not save.
            label: How many of the worst layers to label.

        Raises:
            StudyError: If there is no finding, or the file's ending is unknown.
        """
        from sensitivity.report.figures.cures import cures

        picture = cures(self, label=label)
        if path is not None:
            picture.write(path)
        return picture

    def __repr__(self) -> str:
        return damage.summary(self)

    def _repr_html_(self) -> str:
        return damage.fragment(self)
