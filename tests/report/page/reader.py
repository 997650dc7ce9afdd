"""A strict reader of HTML: tags closed in order, the cells of every table, and everything that leads elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser

from sensitivity.report.page import document

VOID = {"meta", "br", "input", "wbr"}
LEADS_ELSEWHERE = ("href", "src", "xlink:href", "action", "data", "srcset", "poster")


class Reader(HTMLParser):
    """Reads a whole text; a tag that is never closed, or closed out of order, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in LEADS_ELSEWHERE]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in LEADS_ELSEWHERE]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if any(tag in ("td", "th") for tag in self.open):
            self.tables[-1][-1][-1] += data


def without_library(text: str) -> str:
    """A page without the plotting library that is in it."""
    return text.replace(document.plotting_library(), "")
