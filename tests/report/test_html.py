from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sensitivity.errors import StudyError
from sensitivity.report.html import fragment, page
from sensitivity.study import read
from tests.made_studies import make_study, random_study, with_intervals, with_second_recipe

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps the rows of every table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def test_the_page_is_as_it_was_but_for_the_picture(golden: Callable[[str, str], None]) -> None:
    text = page(read(with_intervals(make_study([0.0431, 0.0004, None, -0.002, 0.12]))))
    golden("study.html", re.sub(r"<svg.*</svg>", "<svg></svg>", text, flags=re.DOTALL))


def test_every_layer_is_in_the_last_table_and_the_worst_in_the_first() -> None:
    study = random_study(25, failed=2)
    worst, everything = Reader(page(read(study))).tables
    assert [row[0] for row in everything[1:]] == [*(layer.name for layer in study.layers), "head.unused"]
    assert len(worst) == 1 + 10
    drops = [float(row[4]) for row in worst[1:]]
    assert drops == sorted(drops, reverse=True)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = page(read(random_study(12)))
    assert all(link.startswith("#") for link in Reader(text).links)
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", text)


def test_the_page_is_the_same_every_time() -> None:
    assert page(read(random_study(12))) == page(read(random_study(12)))


def test_text_is_escaped_everywhere() -> None:
    evil = "<script>alert('x')</script>&\""
    study = make_study([0.1, None], model=evil, task=evil, notes=(evil,))
    failed = replace(study.measurements[1], reason=evil)
    layer = replace(study.layers[0], kind=evil, role=evil, name=f"{evil}:0:0")
    first = replace(study.measurements[0], layer=layer.name)
    study = replace(study, measurements=(first, failed), layers=(layer, study.layers[1]))
    for text in (page(read(study)), fragment(read(study))):
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_notes_and_skipped_modules_are_on_the_page() -> None:
    text = page(read(make_study([0.1], notes=("eight rows were left out",))))
    assert "<li>eight rows were left out</li>" in text
    assert "skipped: never called with the example inputs" in text


def test_each_recipe_has_its_worst_layers_and_one_can_be_chosen() -> None:
    study = with_second_recipe(make_study([0.1, 0.2]))
    assert page(read(study)).count("<h2>Worst layers") == 2
    assert len(Reader(page(read(study))).tables[-1]) == 1 + 4 + 1
    chosen = page(read(study), "INT4")
    assert chosen.count("<h2>Worst layers") == 1
    assert len(Reader(chosen).tables[-1]) == 1 + 2 + 1


def test_a_page_of_nothing_is_an_error() -> None:
    with pytest.raises(StudyError, match="has no measurements"):
        page(read(make_study([], skipped=())))


def test_a_notebook_shows_facts_and_worst_layers() -> None:
    study = random_study(25)
    reader = Reader(fragment(read(study)))
    assert len(reader.tables) == 1
    assert len(reader.tables[0]) == 1 + 10
    assert "miou 78.50 %" in fragment(read(study))
