"""The page of a search, as text and in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sensitivity as sv
from sensitivity.report.page.tuned_page import tuned_chart, tuned_finding, tuned_page
from tests.report.page.browser import run_in_page
from tests.report.page.made import TUNED
from tests.report.page.reader import Reader, without_library

STEPS = """
const table = document.getElementById('step-table');
const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[1].textContent);
const told = () => document.getElementById('path-help').textContent;
kept.hover = await hover(71, 1, chart('path')); kept.told = told();
kept.marked = table.querySelector('tr.current').cells[1].textContent;
await press('End', chart('path')); kept.end = told();
await press('Home', chart('path')); kept.home = told();
await press('Enter', chart('path')); kept.chosen = shown(); await press('Escape', chart('path')); kept.all = shown();
table.querySelector('[data-row="3"] .pick').click(); await pause(); kept.picked = told();
kept.ring = chart('path').data.at(-1).x.slice();
[...table.querySelectorAll('th button')].find((button) => button.textContent === 'score').click(); await pause();
kept.byScore = shown();
kept.requests = performance.getEntriesByType('resource').map((entry) => entry.name);
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_page(tuned_page(TUNED), STEPS, tmp_path_factory.mktemp("page"))


def test_the_chart_is_as_it_was(golden: Callable[[str, str], None]) -> None:
    chart = tuned_chart(TUNED)
    golden("tuned_page.json", json.dumps(chart.data(), indent=1, ensure_ascii=False) + "\n")


def test_every_measured_step_is_a_mark_with_its_interval_around_it() -> None:
    marks = [mark for group in tuned_chart(TUNED).groups for mark in group.marks]
    of_steps = {mark.row: mark for mark in marks if mark.row is not None and mark.x is not None}
    assert sorted(of_steps) == [0, 1, 3]
    for row, mark in of_steps.items():
        assert mark.x == pytest.approx(100 * TUNED.steps[row].score)
        assert mark.ends[0] < mark.x < mark.ends[1]


def test_marks_of_a_metric_that_is_better_when_lower_grow_to_the_left() -> None:
    lower = replace(TUNED, higher_is_better=False)
    chart = tuned_chart(lower)
    assert chart.x.reversed
    assert [level.at for level in chart.levels] == pytest.approx([78.5, 79.5])


def test_the_finding_says_what_was_reached_and_what_gave_most() -> None:
    assert tuned_finding(TUNED) == (
        "TinyNet meets a drop of at most 1 point on generated scenes: miou 77.80 % instead of 78.50 %, a drop of 0.70 "
        "points [0.40, 0.90]. 9 of 10 layers are quantized; 4 schemes were measured in 6.5 passes. The step that gave "
        "most back is: int8-affine for all layers (11.00 points). On openvino it runs 2.00 times as fast as in float."
    )


def test_the_page_has_every_step_and_the_scheme(tmp_path: Path) -> None:
    sv.Tuned.of(TUNED).to_html(tmp_path / "page.html")
    text = without_library((tmp_path / "page.html").read_text(encoding="utf-8"))
    (table,) = Reader(text).tables
    assert [row[1] for row in table[1:]] == [step.what for step in TUNED.steps]
    assert table[3][-1] == "NaN in the output"
    assert "<dt>stage2:0:0</dt><dd>float</dd>" in text


def test_a_score_of_zero_is_a_score() -> None:
    text = tuned_page(replace(TUNED, steps=(replace(TUNED.steps[0], score=0.0), *TUNED.steps[1:])))
    assert 'data-row="0"' in text
    assert 'data-row="2"' not in text  # it failed


def test_a_mark_tells_about_its_step_and_marks_its_row(facts: dict[str, Any]) -> None:
    assert facts["errors"] == []
    assert facts["requests"] == []
    for text in (facts["hover"], facts["told"]):
        assert text.startswith("2  int8-affine for all layers")
        assert "miou 71.00, drop 7.50 [6.00, 9.00]" in text
    assert facts["marked"] == "int8-affine for all layers"


def test_the_keyboard_walks_through_the_steps_and_chooses_one(facts: dict[str, Any]) -> None:
    assert facts["home"].startswith("1  INT8 for all layers")
    assert facts["end"].startswith("on openvino")
    assert facts["chosen"] == ["INT8 for all layers"]
    assert len(facts["all"]) == 4


def test_a_row_points_out_its_mark(facts: dict[str, Any]) -> None:
    assert facts["picked"].startswith("4  stage2:0:0 back in float")
    assert facts["ring"] == [77.8]


def test_steps_sort_by_score_with_what_failed_last(facts: dict[str, Any]) -> None:
    assert facts["byScore"] == [TUNED.steps[place].what for place in (3, 1, 0, 2)]
