"""Tables whose headings sort them, with a field to search in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sensitivity.markup.elements import Markup, element, joined

LONG = 36
"""Letters of a cell from which on it is broken into lines."""

SENTENCES = 90
"""Letters from which on its lines are long, so that a row is not many lines high."""


def sortable(
    anchor: str,
    header: Sequence[str],
    numeric: Sequence[bool],
    lines: Iterable[Markup],
    searched: str,
    *,
    points: str | None = None,
) -> Markup:
    """A table whose headings sort it, with a field to search in it.

    Args:
        anchor: Its name in the page.
        header: Column headings.
        numeric: For each column, whether it holds numbers and is set flush right.
        lines: Its rows.
        searched: What people may search for.
        points: Name of the chart whose points the rows are; None for none.
    """
    heads = [
        element(
            "th",
            element("button", name, type="button"),
            scope="col",
            aria_sort="none",
            class_="number" if flush else None,
        )
        for name, flush in zip(header, numeric, strict=True)
    ]
    search = element("input", type="search", placeholder=searched, class_="search")
    return joined(
        element(
            "div",
            element("label", "search ", search),
            element("span", class_="count quiet", aria_live="polite"),
            class_="controls",
        ),
        element(
            "div",
            element(
                "table",
                element("thead", element("tr", *heads)),
                element("tbody", "\n", joined(*lines, between="\n"), "\n"),
                id=anchor,
                class_="sortable",
                data_points=points,
            ),
            class_="wide tall",
            tabindex=0,
            role="region",
            aria_label="Table, scrolls",
        ),
    )


def line(cells: Sequence[str], numeric: Sequence[bool], *, class_: str = "", **place: int | None) -> Markup:
    """One row of such a table.

    Args:
        cells: Text of each cell.
        numeric: For each column, whether it is set flush right.
        class_: A class; empty for none.
        place: What the row is about, for the page's script: the first cell then is a button that points it out.
    """
    has_place = any(number is not None for number in place.values())
    first = element("button", cells[0], type="button", class_="pick", tabindex=-1) if has_place else cells[0]
    return element(
        "tr",
        *(
            element("td", content, class_="number" if flush else _width(text))
            for content, text, flush in zip((first, *cells[1:]), cells, numeric, strict=True)
        ),
        class_=class_ or None,
        **place,
    )


def _width(text: str) -> str | None:
    """The class of a cell of text, by how long that is."""
    if len(text) > SENTENCES:
        return "long sentences"
    return "long" if len(text) > LONG else None
