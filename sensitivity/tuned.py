"""The tuned model that a user holds: the record of a search, with its table, picture and page.

Opening one needs no torch; pandas and matplotlib are imported when a table or a figure is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sensitivity.errors import StudyError
from sensitivity.records.arguments import checked
from sensitivity.records.results.changed_images import ChangedImagesRecord
from sensitivity.records.results.tuned import TunedRecord
from sensitivity.records.storage.files import write_text
from sensitivity.report import path as path_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Tuned(TunedRecord):
    """A scheme that meets a target, or is the nearest to it, and every step of the way there."""

    _deploy: Callable[..., Any] | None = field(default=None, compare=False)

    @classmethod
    @checked(StudyError)
    def of(cls, record: TunedRecord, deploy: Callable[..., Any] | None = None) -> Self:
        """The same facts with the methods of this class.

        Args:
            record: What the search found.
            deploy: Deploys a scheme with the ranges that the search used; None where there is no model at hand.
        """
        return cls(**{each.name: getattr(record, each.name) for each in fields(TunedRecord)}, _deploy=deploy)

    def deploy(self, **settings: Any) -> Any:
        """Run the scheme on the engine that it was tuned for, with the ranges that the search used.

        Args:
            settings: As in ``wrapped.deploy``, e.g. ``engine=`` or ``parts=``.

        Raises:
            StudyError: If this was loaded from a file, or came from another process: then there is no model at hand.
        """
        if self._deploy is None:
            raise StudyError(
                "a tuned model from a file has a scheme and no model. Deploy with the wrapped model: "
                "wrapped.deploy(tuned.scheme, engine, calibration=images)."
            )
        return self._deploy(self.scheme, **settings)

    def table(self) -> DataFrame:
        """One row for each step, in percent and points; what was not measured is NaN or None."""
        return path_report.frame(self)

    @checked(StudyError)
    def plot(self, path: str | Path | None = None) -> Figure:
        """The score of every step against fp32 and the target; see ``report.figures.path``.

        Args:
            path: Where to save it, ``.png``, ``.svg`` or ``.pdf``; None does not save.

        Raises:
            StudyError: If the file's ending is unknown.
        """
        from sensitivity.report.figures.path import path as draw

        picture = draw(self)
        if path is not None:
            picture.write(path)
        return picture

    @checked(StudyError)
    def to_html(self, path: str | Path, *, changed_images: ChangedImagesRecord | None = None) -> None:
        """Write one self-contained interactive page: what was reached, every step and what it bought, the scheme.

        Args:
            path: Where to.
            changed_images: What ``wrapped.changed_images`` found with this scheme: the images that it changes most.
        """
        from sensitivity.report.page.tuned_page import tuned_page

        write_text(path, tuned_page(self, changed_images))

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal tuned model."""
        plain = super().to_json()
        plain.pop("_deploy", None)
        return plain

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_deploy": None}

    def __repr__(self) -> str:
        return path_report.summary(self)

    def _repr_html_(self) -> str:
        return path_report.fragment(self)
