"""Markdown in which nothing that a user wrote is markup: the one writer of all Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODES = {ord("<"): "&lt;", ord("&"): "&amp;", **{ord(letter): f"\\{letter}" for letter in "\\|*_`"}}


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[bool] = ()) -> str:
    """A table in GitHub's Markdown, its columns as wide in the text as in the page.

    Args:
        header: Column headings.
        rows: Cells of each row.
        numeric: For each column, whether it is set flush right; empty for none.
    """
    right = tuple(numeric) or (False,) * len(header)
    cells = [[escaped_markdown(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = [f"{'':-<{width - flush}}{':' * flush}" for width, flush in zip(widths, right, strict=True)]
    lines = [_padded(row, widths, right) for row in (cells[0], rule, *cells[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped_markdown(text: str) -> str:
    """Text as one line in which nothing is markup."""
    return _guarded(one_line(text).translate(_CODES))


def one_line(text: str) -> str:
    """Text without line ends and without characters that a terminal or a typesetter would obey."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


def _guarded(text: str) -> str:
    """Text in which no link or picture stands, and no address that a reader makes one of."""
    text = text.replace("](", "]\\(").replace("][", "]\\[").replace("://", ":&#47;&#47;")
    return re.sub(r"(?i)\bwww\.", "www&#46;", text).replace("@", "&#64;")


def _padded(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> list[str]:
    return [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
