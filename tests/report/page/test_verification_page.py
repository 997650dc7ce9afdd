"""The page of a verification, as text and in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sensitivity as sv
from sensitivity.report.page.verification_page import verification_charts, verification_finding, verification_page
from tests.report.page.browser import run_in_page
from tests.report.page.made import VERIFICATION
from tests.report.page.reader import Reader, without_library

STEPS = """
const table = document.getElementById('check-table');
const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
kept.hover = await hover(8, Math.log10(0.02), chart('codes'));
kept.marked = table.querySelector('tr.current').cells[0].textContent;
kept.time = await hover(7, 0.8, chart('times'));
await search('disagrees'); kept.searched = shown();
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_page(verification_page(VERIFICATION), STEPS, tmp_path_factory.mktemp("page"))


def test_the_charts_are_as_they_were(golden: Callable[[str, str], None]) -> None:
    data = {chart.anchor: chart.data() for chart in verification_charts(VERIFICATION)}
    golden("verification_page.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def test_the_finding_says_what_does_not_agree_and_how_fast_it_is() -> None:
    assert verification_finding(VERIFICATION) == (
        "openvino does not compute what was simulated of TinyNet: 9 of 10 layers are as planned, not stage4:0:0. "
        "Latency against float: 2.00 times as fast."
    )
    good = replace(VERIFICATION, layers=VERIFICATION.layers[:8], latency_int8_s=None)
    assert verification_finding(good) == (
        "openvino computes what was simulated of TinyNet: 8 of 8 layers are as planned."
    )


def test_the_finding_names_the_thresholds_that_are_missed() -> None:
    far = replace(VERIFICATION, output_sqnr_db=10.0, outputs=())
    assert "Outside the thresholds: outputs." in verification_finding(far)


def test_the_page_has_every_layer_and_a_verification_without_layers_has_a_page(tmp_path: Path) -> None:
    verification = sv.Verification.of(VERIFICATION)
    verification.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == verification_page(VERIFICATION)
    (table,) = Reader(without_library(page)).tables
    assert [row[0] for row in table[1:]] == [check.layer for check in VERIFICATION.layers]
    assert 'class="chart' not in verification_page(replace(VERIFICATION, layers=()))
    assert verification.to_html().startswith("<style>")


def test_no_chart_of_times_where_the_engine_tells_none() -> None:
    silent = replace(VERIFICATION, layers=tuple(replace(check, time_s=None) for check in VERIFICATION.layers))
    assert [chart.anchor for chart in verification_charts(silent)] == ["codes"]


def test_a_mark_tells_about_its_layer_in_both_charts(facts: dict[str, Any]) -> None:
    assert facts["errors"] == []
    assert facts["hover"].startswith("stage4:0:0")
    assert "disagrees: planned int8, executed int8" in facts["hover"]
    assert "2.0e-02 of 10,000 codes differ, by at most 9" in facts["hover"]
    assert facts["marked"] == "stage4:0:0"
    assert facts["time"].startswith("stage3:0:1")
    assert "0.8 ms" in facts["time"]


def test_a_status_can_be_searched_for(facts: dict[str, Any]) -> None:
    assert facts["searched"] == ["stage4:0:0"]


def test_a_notebook_shows_all_columns_of_the_layers(tmp_path: Path) -> None:
    paths = [f"image_encoder.backbone.stages.{place}.op_list.1.local_module.main.depth_conv.conv" for place in range(4)]
    checks = [replace(check, module=path) for check, path in zip(VERIFICATION.layers, paths, strict=False)]
    text = sv.Verification.of(replace(VERIFICATION, layers=tuple(checks))).to_html()
    page = f'<html><body data-charts="none"><div style="width: 860px">{text}</div></body></html>'
    steps = "const wide = document.querySelector('.wide'); kept.hidden = wide.scrollWidth - wide.clientWidth;"
    steps += "kept.columns = [...wide.querySelectorAll('th')].map((head) => head.textContent);"
    shown = run_in_page(page, steps, tmp_path)
    assert shown["hidden"] == 0
    assert shown["columns"][-1] == "time (ms)"  # no reason is told of any layer
