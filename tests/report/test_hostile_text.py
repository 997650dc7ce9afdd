"""Any text in a cell of rst, markdown, LaTeX or HTML is read as that text, and never as markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.records import SkippedModule
from sensitivity.report.page.study_page import study_page
from sensitivity.report.tables.text import latex, markdown, one_line, rst
from sensitivity.study import read
from tests.made_studies import make_study

PIECES = (
    *"abz09 .:-+=*_`|\\/<>[](){}#!~^$%&@\"';,\t\n",
    *("::", ".. ", "https://x.y", "mailto:", "ftp://a", "www.", "](", "1. ", "(a) ", "II. ", "- ", "> ", "`a <b>`_"),
    *("|x|", "[1]_", "a_", "a__", "**", "``", ":ref:`x`", "<a@b.c>", "&amp;", "&#60;", "x@y.z", "\u202e", "\x1b[31m"),
    *("__", "====", "+--+", "/a", "--a ", "javascript:", "<script>", "</td>", "\\input{a}", "data:a"),
)
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join).filter(str.strip)
MANY = settings(derandomize=True, max_examples=150, deadline=None)


def of(cell):
    """What there is to show of a study with this module left out."""
    return read(replace(make_study([0.1]), skipped=(SkippedModule(cell, "x"),)))


class Page(HTMLParser):
    """The tags and the text of a page, cell by cell."""

    def __init__(self):
        super().__init__()
        self.tags, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


@settings(MANY, max_examples=40)
@given(cell=TEXTS)
def test_a_docutils_reader_finds_the_text_and_nothing_else(cell):
    core = pytest.importorskip("docutils.core")
    tree = core.publish_doctree(
        rst(of(cell)), settings_overrides={"report_level": 1, "halt_level": 5, "warning_stream": False}
    )
    plain = {"document", "table", "tgroup", "colspec", "thead", "tbody", "row", "entry", "paragraph", "#text"}
    assert {node.tagname for node in tree.findall()} <= plain
    assert one_line(cell) in [entry.astext() for entry in tree.findall() if entry.tagname == "entry"]


@MANY
@given(cell=TEXTS)
def test_a_markdown_reader_finds_the_text_and_nothing_else(cell):
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    seen = Page()
    seen.feed(parser.render(markdown(of(cell))))
    assert set(seen.tags) <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert one_line(cell) in [text.strip() for text in seen.cells]


@MANY
@given(cell=TEXTS)
def test_latex_has_no_command_that_is_not_ours(cell):
    rows = latex(of(cell)).split("\\endfoot\n")[1].removesuffix("\\end{longtable}")
    own_commands = r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\\[&%$#_{}]| & | \\\\(?=\n)"
    assert not re.search(r"[\\&%$#_{}~^]", re.sub(r"(?m)^\{[\[*]\}", "", re.sub(own_commands, "", rows)))


def test_a_browser_finds_the_text_and_nothing_else():
    cells = ["<script>alert(1)</script>", "</td><td onclick=a>", "&lt;b&gt;", "\"'><img src=x>", "<!-- a", "]]>"]
    for cell in cells:
        seen = Page()
        seen.feed(study_page(of(cell)))
        assert not {"img", "iframe", "object", "base", "form"} & set(seen.tags)
        assert cell in [text.strip() for text in seen.cells]
