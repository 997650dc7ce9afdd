"""The page of a study on a dark screen, on a narrow one, and with a thousand layers."""

from __future__ import annotations

from typing import Any

import pytest

from sensitivity.markup.ink import PAGE
from sensitivity.report.page.study_page import Beside, study_page
from sensitivity.report.style import KIND_INKS
from sensitivity.study import read
from tests.made_studies import random_study, with_intervals
from tests.report.page.browser import run_in_page
from tests.report.page.made import TUNED, VERIFICATION

STEPS = """
kept.wide = innerWidth;
kept.overflow = document.documentElement.scrollWidth - innerWidth;
kept.paper = getComputedStyle(document.body).backgroundColor;
kept.text = chart()._fullLayout.font.color;
kept.colours = [...new Set(chart().data.filter((trace) => trace.mode === 'lines').map((trace) => trace.line.color))];
kept.widths = [...document.querySelectorAll('.chart svg.main-svg:first-child')].map((svg) => svg.clientWidth);
const labelled = [...document.querySelectorAll('button, select, input, .chart, [tabindex="0"]')];
kept.nameless = labelled.filter((place) => !(place.textContent.trim() || place.getAttribute('aria-label')
  || place.labels?.length)).map((place) => place.outerHTML);
"""
FAR_AND_NEAR = """
kept.paper = getComputedStyle(document.body).backgroundColor;
kept.labels = [...chart().querySelectorAll('.xtick text')].map((text) => text.textContent);
document.querySelector('[data-first="200"]').click(); await pause();
await press('ArrowDown'); await press('+'); await press('+'); kept.second = said().split('\\n')[0];
kept.near = [...chart().querySelectorAll('.xtick text')].map((text) => text.textContent);
await press('Escape'); await search('stage4:33'); kept.found = rows();
"""


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[start : start + 2], 16)) for start in (1, 3, 5))})"


@pytest.fixture(scope="module")
def dark_and_narrow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = with_intervals(random_study(150, failed=2))
    page = study_page(read(study), None, Beside(tuned=TUNED, verification=VERIFICATION))
    flags = ("--blink-settings=preferredColorScheme=0",)
    return run_in_page(page, STEPS, tmp_path_factory.mktemp("page"), *flags, width=390)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = with_intervals(random_study(1000, failed=2))
    return run_in_page(study_page(read(study)), FAR_AND_NEAR, tmp_path_factory.mktemp("page"))


def test_a_dark_page_draws_its_charts_in_the_colours_for_dark_pages(dark_and_narrow: dict[str, Any]) -> None:
    assert dark_and_narrow["errors"] == []
    assert dark_and_narrow["paper"] == rgb(PAGE["paper"].dark)
    assert dark_and_narrow["text"] == PAGE["text"].dark
    drawn = {PAGE["interval"].dark, *(KIND_INKS[kind].dark for kind in ("independent", "res", "fmb", "mb", "att"))}
    assert set(dark_and_narrow["colours"]) == drawn


def test_a_narrow_page_scrolls_only_downwards(dark_and_narrow: dict[str, Any]) -> None:
    assert dark_and_narrow["wide"] <= 500
    assert dark_and_narrow["overflow"] <= 0
    assert all(0 < width <= dark_and_narrow["wide"] for width in dark_and_narrow["widths"])
    assert len(dark_and_narrow["widths"]) == 4


def test_everything_that_takes_the_focus_has_a_name(dark_and_narrow: dict[str, Any]) -> None:
    assert dark_and_narrow["nameless"] == []


def test_a_thousand_layers_are_drawn_named_by_stage_and_by_layer_when_near(thousand: dict[str, Any]) -> None:
    assert thousand["errors"] == []
    assert thousand["paper"] == rgb(PAGE["paper"].light)
    assert thousand["labels"] == [f"stage{stage}" for stage in range(5)]
    assert thousand["second"] in thousand["near"]
    assert thousand["second"].startswith("stage1:")
    assert 20 <= len(thousand["near"]) <= 70


def test_a_thousand_layers_are_searched(thousand: dict[str, Any]) -> None:
    assert thousand["found"] == [f"stage4:33:{place}" for place in range(3)]
