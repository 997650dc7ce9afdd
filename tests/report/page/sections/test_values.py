"""The histograms of a layer's inputs and weights on the page of a study: data, text, and what a browser draws."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from sensitivity.records.results.diagnosis import DiagnosisRecord, Finding
from sensitivity.records.results.distribution import Distribution
from sensitivity.report import damage
from sensitivity.report.page.sections.study_data import study_data
from sensitivity.report.page.sections.values import AFTER_INK, BEFORE_INK, CURE_INK, RANGE_INK
from sensitivity.report.page.study_page import Beside, study_page
from sensitivity.study import read
from tests.made_studies import INT8, make_study, random_study, with_intervals, with_second_recipe
from tests.report.page.browser import run_in_page
from tests.report.page.reader import Reader, without_library

INPUTS = Distribution(0.0, 0.5, (100, 0, 7, 1), (90, 10, 8, 0), 0.0, 1.9, 0.2, (-2.0, 2.0), (0.0, 1.5), 7, 40.0)
WEIGHTS = Distribution(-0.25, 0.125, (3, 5, 5, 2), (), -0.25, 0.25, 0.25)
DIAGNOSIS = DiagnosisRecord(
    "TinyNet",
    INT8,
    (
        Finding("stage0:0:0", 40.0, inputs=WEIGHTS, weights=WEIGHTS),
        Finding("stage1:0:0", 12.0, True, inputs=INPUTS, weights=WEIGHTS),
        Finding("stage2:0:0", 41.0, inputs=INPUTS),
        Finding("stage3:0:0", 41.0),
    ),
    enough_db=30.0,
    images=8,
)
STEPS = """
const inputs = document.getElementById('values-inputs'), weights = document.getElementById('values-weights');
const chooser = document.getElementById('values-layer');
const text = (name) => document.getElementById(`values-${name}-said`).textContent;
const drawn = (at) => ({
  types: at.data.map((trace) => trace.type), heights: at.data.map((trace) => trace.y),
  places: at.data.map((trace) => trace.x),
  colours: at.data.map((trace) => trace.marker?.color ?? trace.line.color),
  lines: (at._fullLayout.shapes ?? []).map((shape) => [shape.x0, shape.line.dash, shape.line.color]),
  logarithmic: at._fullLayout.yaxis.type,
});
kept.first = [text('inputs'), text('weights'), chooser.value];
const legend = () => [...document.querySelectorAll('#values .legend li')]
  .filter((entry) => getComputedStyle(entry).display !== 'none').map((entry) => entry.textContent);
kept.firstLegend = legend();
kept.inputs = drawn(inputs); kept.weights = drawn(weights);
kept.hoverTexts = inputs.data[0].hovertext.slice();
await hover(0, 78.5); await pause(200); kept.pointedLegend = legend();
kept.pointed = [text('inputs').split('\\n')[0], chooser.value];
await press('End'); kept.uncounted = chooser.value;
chooser.value = '4'; chooser.dispatchEvent(new Event('change')); await pause(200);
kept.chosen = [text('inputs').split('\\n')[0], text('weights'), said().split('\\n')[0], weights.data.length];
kept.options = [...chooser.options].map((option) => option.textContent);
const heights = [...document.querySelectorAll('#layer-table tbody tr')].map((row) => row.offsetHeight);
kept.rowLines = Math.max(...heights) / 19.5;
kept.overflow = document.documentElement.scrollWidth - innerWidth;
"""


@pytest.fixture(scope="module")
def in_browser(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = with_intervals(make_study([0.0] * 10), half=0.0003)
    return run_in_page(study_page(read(study), None, Beside(DIAGNOSIS)), STEPS, tmp_path_factory.mktemp("page"))


def test_the_layer_that_is_hurt_most_is_shown_first_with_what_its_values_mean(in_browser: dict[str, Any]) -> None:
    assert in_browser["errors"] == []
    inputs, weights, chosen = in_browser["first"]
    assert inputs.splitlines() == [
        "inputs of stage1:0:0",
        "99.9% of the inputs lie within 10% of the range. None of the inputs is below zero, so that 50% of the range "
        "is not used. Channel 7 reaches 40 times as far as the median channel.",
    ]
    assert weights.startswith("weights of stage1:0:0\n99.9% of the weights lie within")
    assert chosen == "2"


def test_bars_are_the_counts_in_float_and_the_outline_those_quantized(in_browser: dict[str, Any]) -> None:
    drawn = in_browser["inputs"]
    assert drawn["types"] == ["bar", "scatter"]
    assert drawn["logarithmic"] == "log"
    assert drawn["heights"][0] == [100, None, 7, 1]
    assert drawn["places"][0] == [0.25, 0.75, 1.25, 1.75]
    assert drawn["heights"][1][1:-1] == [90, 10, 8, 0.6]  # below the axis: no value
    assert drawn["colours"] == [BEFORE_INK.light, AFTER_INK.light]
    assert in_browser["weights"]["types"] == ["bar"]  # the recipe of the test leaves them
    assert in_browser["hoverTexts"][1] == "0.5 to 1<br>0 in float<br>10 quantized"


def test_the_ends_of_both_ranges_are_drawn_as_lines(in_browser: dict[str, Any]) -> None:
    ranges = [[end, "dash", RANGE_INK.light] for end in (-2.0, 2.0)]
    cures = [[end, "dot", CURE_INK.light] for end in (0.0, 1.5)]
    assert in_browser["inputs"]["lines"] == ranges + cures
    assert in_browser["weights"]["lines"] == []


def test_the_legend_names_only_what_is_drawn_of_the_layer(in_browser: dict[str, Any]) -> None:
    assert in_browser["firstLegend"] == [
        "in float",
        f"quantized with {INT8.name}",
        f"ends of the range of {INT8.name}",
        "ends of the range of the cure",
    ]
    assert in_browser["pointedLegend"] == ["in float"]


def test_pointing_at_a_layer_or_choosing_it_draws_its_values(in_browser: dict[str, Any]) -> None:
    assert in_browser["pointed"] == ["inputs of stage0:0:0", "0"]
    assert in_browser["uncounted"] == "0"  # the last layer has none: the one before stays
    assert in_browser["chosen"] == ["inputs of stage2:0:0", "weights of stage2:0:0 were not counted", "stage2:0:0", 0]
    assert in_browser["options"] == ["stage0:0:0", "stage1:0:0", "stage2:0:0"]
    assert in_browser["overflow"] <= 0


def test_sentences_in_the_table_make_no_row_higher_than_four_lines(in_browser: dict[str, Any]) -> None:
    assert 1.0 <= in_browser["rowLines"] <= 4.5


def test_the_page_without_a_script_and_the_view_of_a_notebook_have_the_words() -> None:
    study = make_study([0.0] * 10)
    *_, table = Reader(without_library(study_page(read(study), beside=Beside(DIAGNOSIS)))).tables
    assert table[0][-1] == "inputs and weights"
    assert "Channel 7 reaches 40 times" in table[3][-1]
    assert table[4][-1] == "–"
    assert "None of the inputs is below zero" in damage.fragment(DIAGNOSIS)


def test_only_rows_of_the_recipe_that_was_diagnosed_tell_of_its_range() -> None:
    study = with_second_recipe(make_study([0.0] * 10))
    *_, table = Reader(without_library(study_page(read(study), beside=Beside(DIAGNOSIS)))).tables
    rows = [row for row in table[1:] if row[0] == "stage1:0:0"]
    assert ["Channel 7 reaches 40 times" in row[-1] for row in rows] == [True, False]


def test_a_diagnosis_without_distributions_adds_no_part_to_the_page() -> None:
    bare = replace(DIAGNOSIS, findings=(Finding("stage0:0:0", 12.0, True),))
    text = study_page(read(make_study([0.0] * 10)), beside=Beside(bare))
    assert 'id="values-layer"' not in text
    assert study_data(read(make_study([0.0] * 10)), ("INT8",), bare)["values"] is None


def test_a_page_of_150_layers_with_all_distributions_stays_below_two_megabytes() -> None:
    study = with_intervals(random_study(150))
    large = replace(INPUTS, before=tuple(range(1_000_000, 1_000_064)), after=tuple(range(1_000_000, 1_000_064)))
    findings = tuple(Finding(layer.name, 12.0, inputs=large, weights=large) for layer in study.layers)
    text = without_library(study_page(read(study), None, Beside(replace(DIAGNOSIS, findings=findings))))
    assert len(text.encode()) < 1_000_000
    data = json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))  # type: ignore[union-attr]
    assert len(data["study"]["values"]["layers"]) == 150
