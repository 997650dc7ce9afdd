"""HTML in which nothing that a user wrote is markup: the one writer of all pages and notebook views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import repeat

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr"})


class Markup(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def escaped(content: str) -> Markup:
    """Content that is safe inside an element or an attribute; ``Markup`` is as it was."""
    return content if isinstance(content, Markup) else Markup(escape(content))


def joined(*parts: str, between: str = "") -> Markup:
    """Parts behind each other, each escaped if it is text.

    Args:
        parts: Text and HTML.
        between: HTML that stands between two of them.
    """
    return Markup(between.join(map(escaped, parts)))


def element(tag: str, *content: str, **attributes: str | bool | int | None) -> Markup:
    """One element.

    Args:
        tag: Its name.
        content: Text, which is escaped, and HTML.
        attributes: By name; ``_`` stands for ``-``, and one at the end is dropped (``class_``). True is an attribute
            without a value; False and None leave it out.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{joined(*content)}</{tag}>")


def breakable(path: str) -> Markup:
    """A module's path that can be broken into lines behind its dots, so that a table of paths fits its place."""
    return joined(*path.split("."), between=f".{element('wbr')}")


def listed(items: Iterable[str]) -> Markup:
    """An unordered list; nothing where there is no item."""
    elements = [element("li", item) for item in items]
    return element("ul", *elements) if elements else Markup("")


def described(pairs: Iterable[tuple[str, str]]) -> Markup:
    """A list of names and what they are."""
    return element("dl", *(joined(element("dt", name), element("dd", text)) for name, text in pairs))


def html_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numeric: Sequence[bool] = (),
    row_classes: Sequence[str] = (),
    caption: str = "",
) -> Markup:
    """A table that scrolls sideways where it is wider than its place.

    Args:
        header: Column headings.
        rows: Cells of each row, text or HTML.
        numeric: For each column, whether it is set flush right; empty for none.
        row_classes: A class for each row, empty for none; empty where no row has one.
        caption: What the table shows; empty for none.
    """
    right = numeric or [False] * len(header)
    body = [
        element("tr", *_cells("td", cells, right), class_=name or None)
        for cells, name in zip(rows, row_classes or repeat(""), strict=bool(row_classes))
    ]
    head = element("thead", element("tr", *_cells("th", header, right)))
    return element(
        "div",
        element(
            "table",
            *([element("caption", caption)] if caption else []),
            head,
            element("tbody", "\n", joined(*body, between="\n"), "\n"),
        ),
        class_="wide",
    )


def _cells(tag: str, cells: Sequence[str], right: Sequence[bool]) -> list[Markup]:
    return [
        element(tag, cell, class_="number" if flush else None, scope="col" if tag == "th" else None)
        for cell, flush in zip(cells, right, strict=True)
    ]


def _attribute(name: str, value: str | bool | int | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(str(value))}"'
