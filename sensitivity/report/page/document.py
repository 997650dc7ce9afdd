"""The page around the sections: head, navigation, style sheet, data, the plotting library and the page's own script."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from sensitivity.errors import MissingPackageError
from sensitivity.markup.elements import Markup, element, joined
from sensitivity.markup.view import style_sheet
from sensitivity.report.page.points import PointChart

SCRIPTS = ("view.js", "table.js", "dips.js", "points.js", "values.js", "page.js")
"""Files of the page's own script, in the order in which a browser reads them."""

_ALLOWED = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""What a browser lets the page do: what is in it, and no request to anywhere."""


_WITHOUT_SCRIPT = "The charts need JavaScript; every number is in the tables."


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a page.

    Attributes:
        anchor: Where the navigation leads to.
        title: Its heading.
        content: What is below the heading, the places of its charts included.
        charts: What the script draws in these places.
    """

    anchor: str
    title: str
    content: Markup
    charts: Sequence[PointChart] = ()


def document(
    title: str, lead: Sequence[str], sections: Sequence[Section], study: Mapping[str, Any] | None = None
) -> str:
    """A whole HTML document that needs no other file and no network.

    Args:
        title: What the page is about.
        lead: Paragraphs that state the finding.
        sections: The parts, from top to bottom.
        study: Plain values of a study, for the chart of its dips; None for a page without.
    """
    charts = {chart.anchor: chart.data() for part in sections for chart in part.charts}
    data = {"charts": charts} | ({} if study is None else {"study": study})
    has_charts = bool(charts) or study is not None
    navigation = element(
        "nav", *(element("a", part.title, href=f"#{part.anchor}") for part in sections), aria_label="Sections"
    )
    main = element(
        "main",
        element("h1", title),
        element("div", *(element("p", paragraph) for paragraph in lead), class_="lead"),
        navigation,
        *([element("noscript", element("p", _WITHOUT_SCRIPT))] if has_charts else []),
        *(
            element("section", element("h2", part.title), part.content, id=part.anchor, class_=part.anchor)
            for part in sections
        ),
        class_="sensitivity page",
    )
    head = element(
        "head",
        "\n",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=_ALLOWED),
        element("title", title),
        element("style", style_sheet(), Markup(_resource("page.css"))),
    )
    scripts = [
        element("script", _json(data), type="application/json", id="data"),
        *([element("script", plotting_library(), type="application/octet-stream", id="library")] if has_charts else []),
        element("script", own_script()),
    ]
    body = element("body", "\n", joined(main, *scripts, between="\n"), "\n", class_="sensitivity")
    return f"<!DOCTYPE html>\n{element('html', head, Markup(chr(10)), body, lang='en')}\n"


@cache
def own_script() -> Markup:
    """The page's own script."""
    return Markup("'use strict';\n" + "\n".join(map(_resource, SCRIPTS)))


@cache
def plotting_library() -> Markup:
    """plotly.js, compressed: 2 MB instead of 5; browsers decompress it on their own.

    Raises:
        MissingPackageError: If the package that brings it is not installed.
    """
    try:
        script = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    except (ImportError, FileNotFoundError) as missing:
        raise MissingPackageError(
            "an interactive page embeds plotly.js, which the package plotly brings: pip install plotly."
        ) from missing
    return Markup(base64.b64encode(gzip.compress(script, 9, mtime=0)).decode("ascii"))


def _resource(name: str) -> str:
    return (files("sensitivity.report.page") / name).read_text(encoding="utf-8")


def _json(data: Mapping[str, Any]) -> Markup:
    """JSON in which nothing ends the element that it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
