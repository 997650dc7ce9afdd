"""The page of a study in a browser: what readers do with it, and what they then see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensitivity.report.page.study_page import study_page
from sensitivity.study import Study, read
from tests.made_studies import make_study, with_intervals, with_second_recipe
from tests.report.page.browser import run_in_page

DROPS = [0.0431, 0.0004, None, -0.002, 0.12, 0.0005, 0.05, 0.0, 0.001, 0.0]
NAMES = [f"stage{stage}:0:{place}" for stage in range(5) for place in range(2)]

STEPS = """
kept.first = rows();
kept.hover = await hover(4, 66.5); kept.hoverSaid = said();
kept.ring = chart().data.at(-1).x.slice();
kept.marked = document.querySelector('#layer-table tr.current .pick').textContent;
await sortBy('drop'); kept.byDrop = rows();
kept.sortTold = document.querySelector('[aria-sort=descending]').textContent;
await sortBy('drop'); kept.byDropUp = rows();
await sortBy('layer'); kept.byName = rows();
await search('depthwise'); kept.searched = rows(); kept.count = document.querySelector('.count').textContent;
await search('');
await drag(2.5, 5.5, 75); kept.dragged = rows();
kept.bright = chart().data.filter((trace) => trace.mode === 'markers' && trace.marker.opacity === 1)
 .flatMap((trace) => trace.x).sort();
document.getElementById('clear').click(); await pause(); kept.cleared = rows();
document.querySelector('[data-first="6"]').click(); await pause(200); kept.stage = rows();
kept.stageTicks = chart()._fullLayout.xaxis.range.slice();
await press('Escape'); kept.escaped = rows();
await press('ArrowDown'); kept.worst = said(); await press('ArrowDown'); kept.second = said();
await press('ArrowRight'); kept.right = said(); await press('Home'); kept.home = said();
await press('End'); kept.end = said();
await press('+'); kept.zoomed = chart()._fullLayout.xaxis.range.slice(); await press('-');
await press('Enter'); kept.entered = rows(); await press('Escape');
document.querySelector('[data-kind=mb]').click(); await pause(100); kept.hidden = rows();
kept.pressed = document.querySelector('[data-kind=mb]').getAttribute('aria-pressed');
document.querySelector('[data-kind=mb]').click(); await pause(100);
const choice = document.getElementById('recipe');
choice.value = '1'; choice.dispatchEvent(new Event('change')); await pause(200);
kept.other = rows().length; kept.otherHover = await hover(4, 78.5 - 36);
kept.stagesShown = [...document.querySelectorAll('#stages [data-only-recipe]')].map((part) => part.hidden);
const focus = document.querySelector('.pick[tabindex="0"]'); focus.focus(); await press('ArrowDown', focus);
kept.focused = document.activeElement.textContent; kept.focusedSaid = said();
const part = { 'xaxis.range[0]': 2, 'xaxis.range[1]': 6, 'yaxis.range[0]': 77, 'yaxis.range[1]': 79 };
await Plotly.relayout(chart(), part);
await pause(100); kept.zoomedInto = [chart()._fullLayout.xaxis.range.slice(), chart()._fullLayout.yaxis.range.slice()];
await press('Escape'); kept.zoomedOut = chart()._fullLayout.yaxis.range.slice();
kept.buttons = [...document.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title);
kept.requests = performance.getEntriesByType('resource').map((entry) => entry.name);
kept.drawings = [...chart().querySelectorAll('svg')].every((drawing) => drawing.getAttribute('aria-hidden') === 'true');
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = with_second_recipe(with_intervals(make_study(DROPS), half=0.0003))
    return run_in_page(study_page(read(study)), STEPS, tmp_path_factory.mktemp("page"))


def test_the_page_draws_without_an_error_and_asks_for_nothing(facts: dict[str, Any]) -> None:
    assert facts["charts"] == "drawn"
    assert facts["errors"] == []
    assert facts["requests"] == []


def test_no_button_sends_the_study_anywhere(facts: dict[str, Any]) -> None:
    assert [button.lower() for button in facts["buttons"]] == [  # plotly 6 and 7 write them differently
        *("download plot as a png", "zoom", "pan", "box select", "zoom in", "zoom out", "reset axes"),
    ]


def test_pointing_at_a_dip_tells_name_module_interval_and_verdict_and_marks_its_row(facts: dict[str, Any]) -> None:
    for text in (facts["hover"], facts["hoverSaid"]):
        assert text.startswith("stage2:0:0")
        assert "backbone.stages.2.blocks.0.conv0" in text
        assert "drop 12.00 points [10.47, 13.53]" in text
        assert text.endswith("dip")
    assert facts["ring"] == [4]
    assert facts["marked"] == "stage2:0:0"


def test_a_heading_sorts_numbers_by_size_and_turns_round_with_what_is_absent_last(facts: dict[str, Any]) -> None:
    assert facts["first"] == [*NAMES, "head.unused"]
    order = ["stage2:0:0", "stage3:0:0", "stage0:0:0", "stage4:0:0", "stage2:0:1", "stage0:0:1"]
    assert facts["byDrop"][:6] == order
    assert facts["byDrop"][-2:] == ["stage1:0:0", "head.unused"]
    assert facts["byDropUp"][0] == "stage1:0:1"
    assert facts["byDropUp"][-2:] == ["stage1:0:0", "head.unused"]
    assert facts["byName"] == ["head.unused", *NAMES]
    assert facts["sortTold"] == "drop (points)"


def test_searching_keeps_the_rows_that_hold_the_words(facts: dict[str, Any]) -> None:
    assert facts["searched"] == ["stage0:0:1", "stage4:0:0"]
    assert facts["count"] == "2 of 11 rows"


def test_dragging_over_dips_selects_their_rows_and_dims_the_others_until_cleared(facts: dict[str, Any]) -> None:
    assert facts["dragged"] == ["stage1:0:1", "stage2:0:0", "stage2:0:1"]
    assert facts["bright"] == [3, 4, 5]
    assert sorted(facts["cleared"]) == sorted(facts["first"])


def test_a_stage_selects_its_layers_and_brings_them_near(facts: dict[str, Any]) -> None:
    assert facts["stage"] == ["stage3:0:0", "stage3:0:1"]
    assert facts["stageTicks"] == [5, 8]
    assert len(facts["escaped"]) == 11


def test_the_keyboard_walks_by_damage_and_by_order_selects_and_zooms(facts: dict[str, Any]) -> None:
    assert facts["worst"].startswith("stage2:0:0\n")
    assert facts["second"].startswith("stage3:0:0\n")
    assert facts["right"].startswith("stage3:0:1\n")
    assert facts["home"].startswith("stage0:0:0\n")
    assert facts["end"].startswith("stage4:0:1\n")
    assert facts["zoomed"][0] > 3
    assert facts["entered"] == ["stage4:0:1"]


def test_a_kind_is_hidden_and_says_so(facts: dict[str, Any]) -> None:
    assert facts["pressed"] == "false"
    assert "stage0:0:0" not in facts["hidden"]
    assert "stage2:0:0" in facts["hidden"]


def test_another_recipe_brings_its_own_dips_rows_and_stages(facts: dict[str, Any]) -> None:
    assert facts["other"] == 11
    assert "drop 36.00 points" in facts["otherHover"]
    assert facts["stagesShown"] == [True, False]


def test_arrow_keys_walk_through_the_rows(facts: dict[str, Any]) -> None:
    assert facts["focused"] == facts["focusedSaid"].split("\n")[0]


def test_a_reader_of_the_screen_does_not_meet_the_drawings(facts: dict[str, Any]) -> None:
    assert facts["drawings"]


def test_a_part_of_the_chart_can_be_brought_near_in_both_directions(facts: dict[str, Any]) -> None:
    assert facts["zoomedInto"] == [[2, 6], [77, 79]]
    assert min(facts["zoomedOut"]) < 78.5 - 36


LEGEND_STEPS = """
const legend = () => [...document.querySelectorAll('#layers .legend li')]
  .filter((entry) => getComputedStyle(entry).display !== 'none').map((entry) => entry.textContent);
kept.first = legend();
const choice = document.getElementById('recipe');
choice.value = '1'; choice.dispatchEvent(new Event('change')); await pause(200); kept.second = legend();
"""


def test_the_legend_names_only_what_the_shown_recipe_draws(tmp_path: Path) -> None:
    study = with_second_recipe(make_study([0.1, 0.1, None, 0.1]))
    rows = [row for row in study.measurements if row.recipe == "INT8" or row.layer == "stage0:0:0"]
    page = study_page(read(Study.of(replace(study, measurements=tuple(rows)))))
    seen = run_in_page(page, LEGEND_STEPS, tmp_path)
    assert seen["errors"] == []
    dip = "dip: loses more than 0.10 points"
    assert seen["first"] == ["res", "mb", "depthwise", "other layers", dip, "no result"]
    assert seen["second"] == ["mb", "other layers", dip]
