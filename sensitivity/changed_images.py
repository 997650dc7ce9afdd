"""The images that a scheme changes most, as a user holds them: with text, a view in notebooks and a page.

Opening them needs no torch.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Self

from sensitivity.errors import StudyError
from sensitivity.records.arguments import checked
from sensitivity.records.results.changed_images import ChangedImagesRecord
from sensitivity.records.storage.files import write_text
from sensitivity.report import images


class ChangedImages(ChangedImagesRecord):
    """The images that changed most, the largest change first, each with a small picture and what the model says."""

    @classmethod
    @checked(StudyError)
    def of(cls, record: ChangedImagesRecord) -> Self:
        """The same images with the methods of this class."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(ChangedImagesRecord)})

    @checked(StudyError)
    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page, which asks the network for nothing."""
        from sensitivity.report.page.images_page import images_page

        write_text(path, images_page(self))

    def __repr__(self) -> str:
        return images.summary(self)

    def _repr_html_(self) -> str:
        return images.fragment(self)
