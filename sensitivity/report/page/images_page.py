"""The page of the images that a scheme changes most, and its part of other pages."""

from __future__ import annotations

from sensitivity.markup.elements import Markup, element, joined
from sensitivity.records.results.changed_images import ChangedImagesRecord
from sensitivity.report import images
from sensitivity.report.page.document import Section, document


def images_page(record: ChangedImagesRecord) -> str:
    """A whole HTML document that needs no other file and no network.

    Args:
        record: What was compared.
    """
    return document(
        f"{record.model} on {record.task}", [f"{images.title(record)}."], [_section(images.figures(record))]
    )


def images_section(record: ChangedImagesRecord) -> Section:
    """The part about images for the pages of a study and a search."""
    return _section(joined(element("p", f"{images.title(record)}.", class_="quiet"), images.figures(record)))


def _section(content: Markup) -> Section:
    return Section("images", "Images that change most", content)
