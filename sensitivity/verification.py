"""The verification that a user holds: the record of what was compared, with its table, figure and texts.

Opening one needs no torch; pandas and matplotlib are imported when a table or a figure is asked for.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Self, overload

from sensitivity.errors import StudyError
from sensitivity.records.arguments import checked
from sensitivity.records.results.verification import VerificationRecord
from sensitivity.records.storage.files import write_text
from sensitivity.report import agreement

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class Verification(VerificationRecord):
    """Whether an engine computes what was simulated; ``passed`` says it in one word."""

    @classmethod
    @checked(StudyError)
    def of(cls, record: VerificationRecord) -> Self:
        """The same facts with the methods of this class."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(VerificationRecord)})

    def to_frame(self) -> DataFrame:
        """One row for each layer in execution order; what was not measured is NaN or None."""
        return agreement.frame(self)

    @checked(StudyError)
    def plot(self, path: str | Path | None = None) -> Figure:
        """Share of differing codes by layer; see ``report.figures.agreement``.

        Args:
            path: Where to save it, ``.png``, ``.svg`` or ``.pdf``; None does not save.

        Raises:
            StudyError: If there is no layer, or the file's ending is unknown.
        """
        from sensitivity.report.figures.agreement import agreement as draw

        picture = draw(self)
        if path is not None:
            picture.write(path)
        return picture

    @overload
    def to_html(self, path: None = None) -> str: ...

    @overload
    def to_html(self, path: str | Path) -> None: ...

    @checked(StudyError)
    def to_html(self, path: str | Path | None = None) -> str | None:
        """Facts, figure and all layers, as a part of a page or as a page of its own.

        Args:
            path: Where to write one self-contained interactive page; None writes nothing.

        Returns:
            Without a path, a part of a page with a figure that is not interactive.
        """
        if path is not None:
            from sensitivity.report.page.verification_page import verification_page

            write_text(path, verification_page(self))
            return None
        from sensitivity.report.figures.agreement import agreement as draw

        return agreement.fragment(self, draw(self).to_svg() if self.layers else "")

    def to_markdown(self) -> str:
        """Facts and all layers in GitHub's markdown."""
        return agreement.markdown(self)

    def __repr__(self) -> str:
        return agreement.summary(self)

    def _repr_html_(self) -> str:
        return agreement.fragment(self)
