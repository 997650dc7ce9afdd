"""The verification that a user holds: table, figure and texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.errors import StudyError
from sensitivity.records.results.verification import Cause, LayerCheck, LayerStatus, OutputCheck
from tests.records.results.test_verification import RECORD

GOOD = sv.Verification.of(replace(RECORD, metric_deployed=0.8905))
WRONG = LayerCheck("c:0:0", "c", "int8", "fp32", "other precision", "planned in int8, the engine ran fp32 | really")
BAD = sv.Verification.of(replace(GOOD, layers=(*GOOD.layers, WRONG)))


def test_the_summary_says_whether_it_passed_and_why_not() -> None:
    assert repr(GOOD).splitlines()[0] == "net on openvino: as simulated"
    assert "mIoU: fp32 90.000, simulated 89.000, deployed 89.050 % on 10 images; 0.100 points may differ" in repr(GOOD)
    assert "0.050 points between roundings of the same simulation" in repr(GOOD)
    assert "1 ms, fp32 3 ms: 3.00 times as fast" in repr(GOOD)
    assert repr(BAD).splitlines()[0] == "net on openvino: NOT as simulated"
    assert "c:0:0 (c): other precision: planned in int8" in repr(BAD)


def test_the_summary_says_as_plainly_where_int8_is_slower() -> None:
    slower = sv.Verification.of(replace(GOOD, latency_int8_s=0.004, latency_fp32_s=0.003))
    assert "4 ms, fp32 3 ms: int8 is slower than float here, it takes 1.33 times as long" in repr(slower)


def test_the_summary_names_saturation_once_and_what_to_do() -> None:
    cut = replace(WRONG, status=LayerStatus.DISAGREES, cause=Cause.SATURATION)
    saturated = sv.Verification.of(replace(GOOD, layers=(*GOOD.layers, cut, replace(cut, layer="d:0:0"))))
    (line,) = [line for line in repr(saturated).splitlines() if line.startswith("  saturation: ")]
    assert line.startswith("  saturation: explains why 2 layers disagree: ")
    assert "Weights in 7 bits are exact on every CPU, and the recipe that sv.recipe_for gives" in line
    assert "  layers: 1 verified, 1 in float, 2 disagree" in repr(saturated)
    assert "saturation" not in repr(BAD)


def test_the_summary_says_when_the_metric_cannot_tell() -> None:
    unsure = sv.Verification.of(replace(GOOD, metric_deployed=0.893, metric_variants={"other": 0.88}))
    assert "(outside the threshold, within the prediction's own uncertainty)" in repr(unsure)


def test_the_frame_has_a_row_for_each_layer() -> None:
    frame = BAD.to_frame()
    assert list(frame["layer"]) == ["a:0:0", "b:0:0", "c:0:0"]
    assert list(frame["status"]) == ["verified", "in float", "other precision"]
    assert frame["code_share"].isna().tolist() == [False, True, True]


def test_an_empty_frame_has_the_same_columns() -> None:
    assert list(sv.Verification("net", "openvino", ()).to_frame()) == list(BAD.to_frame())


def test_outputs_that_fail_are_named_and_those_not_compared_are_told() -> None:
    scores = OutputCheck("['scores']", 1000, 12.5, 30.0)
    boxes = OutputCheck("['boxes']", 1000, 81.4, 30.0)
    text = repr(sv.Verification.of(replace(GOOD, outputs=(boxes, scores), output_sqnr_db=12.5)))
    assert (
        "output ['scores']: SQNR 12.5 dB to the simulation, which has 30.0 dB to fp32 (outside the threshold)" in text
    )
    assert "['boxes']" not in text
    bare = sv.Verification.of(replace(GOOD, output_sqnr_db=None, simulation_sqnr_db=None))
    assert "outputs: not compared" in repr(bare)
    assert "NOT as simulated" in repr(bare)


def test_layers_left_in_float_are_no_failures() -> None:
    left = LayerCheck("d:0:0", "d", "fp32", "fp32", "left in float", "too few channels")
    page = sv.Verification.of(replace(GOOD, layers=(*GOOD.layers, left)))
    assert page.passed
    assert 'class="fails"' not in page.to_html()
    assert "too few channels" in page.to_markdown()
    assert "too few channels" not in repr(page)


def test_markdown_is_a_table_whose_cells_are_escaped() -> None:
    lines = BAD.to_markdown().strip().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 3
    assert r"ran fp32 \| really" in table[-1]
    assert {line.replace(r"\|", "").count("|") for line in table} == {10}


def test_html_holds_the_figure_and_escapes(tmp_path: Path) -> None:
    page = sv.Verification.of(replace(BAD, model="<b>net</b>")).to_html()
    assert "&lt;b&gt;net&lt;/b&gt;" in page
    assert "<b>net" not in page
    assert page.count("<svg") == 1
    assert page.count('class="fails"') == 1
    assert "<svg" not in BAD._repr_html_()


def test_the_figure_draws_every_layer_and_the_threshold(tmp_path: Path) -> None:
    figure = BAD.plot(tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 1000
    lines = figure.axes[0].lines
    marks = {str(line.get_label()).partition(" (")[0]: line for line in lines if line.get_gid() == "layer"}
    assert sorted(marks) == sorted(check.status for check in BAD.layers)
    assert marks["verified"].get_ydata()[0] == 0.01
    assert len({line.get_color() for line in marks.values()}) == 3
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [check.layer for check in BAD.layers]
    assert [line.get_ydata()[0] for line in lines if line.get_gid() == "threshold"] == [2e-4]


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(StudyError, match="nothing to plot"):
        sv.Verification("net", "openvino", ()).plot()


def test_json_gives_the_same_class(tmp_path: Path) -> None:
    GOOD.save(tmp_path / "v.json")
    loaded = sv.Verification.load(tmp_path / "v.json")
    assert isinstance(loaded, sv.Verification)
    assert loaded == GOOD
