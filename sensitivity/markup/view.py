"""What a notebook shows: parts below each other, in the style of all pages."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from sensitivity.markup.elements import Markup, element, joined
from sensitivity.markup.ink import sheet


def view(*parts: str) -> Markup:
    """Parts below each other with the style of all pages.

    Args:
        parts: Text and HTML.
    """
    return joined(element("style", style_sheet()), element("div", *parts, class_="sensitivity view"))


@cache
def style_sheet() -> Markup:
    """The style of pages and notebook views."""
    return Markup(sheet() + (files("sensitivity.markup") / "view.css").read_text(encoding="utf-8"))
