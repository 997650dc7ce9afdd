"""A study's page with what else is known of the model: another study, accuracy against size."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

from sensitivity.errors import StudyError
from sensitivity.report.page.comparison import Comparison, comparison_chart, comparison_finding
from tests.made_studies import make_study, with_second_recipe
from tests.report.page.made import TUNED, VERIFICATION
from tests.report.page.reader import Reader, without_library

DROPS = [0.043, 0.0004, None, -0.002, 0.12]
OTHER = [0.02, 0.001, 0.01, 0.07, 0.03]
STUDY = make_study(DROPS)
OTHER_STUDY = replace(make_study(OTHER), task="other scenes")


def page(path: Path, **settings: Any) -> str:
    STUDY.to_html(path / "page.html", **settings)
    return without_library((path / "page.html").read_text(encoding="utf-8"))


def charts(text: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    charts_data: dict[str, Any] = json.loads(match.group(1))["charts"]
    return charts_data


def test_the_finding_has_the_rank_correlation_and_the_layer_that_moves_most() -> None:
    text = comparison_finding(Comparison(STUDY, "INT8", OTHER_STUDY, "INT8"))
    both = [(first, second) for first, second in zip(DROPS, OTHER, strict=True) if first is not None]
    expected = spearmanr(*zip(*both, strict=True)).statistic
    assert text == (
        "4 layers were measured for both generated scenes and other scenes; the rank correlation of the two drops is "
        f"{expected:.2f}. stage3:0:0 moves most: rank 4 here, 1 there."
    )


def test_studies_are_told_apart_by_what_differs() -> None:
    names = Comparison(STUDY, "INT8", with_second_recipe(STUDY), "INT4").names
    assert names == ("INT8", "INT4")
    assert Comparison(STUDY, "INT8", STUDY, "INT8").names == ("INT8 in this study", "INT8 in the other study")


def test_each_layer_that_both_measured_is_a_mark_at_its_two_drops() -> None:
    chart = comparison_chart(Comparison(STUDY, "INT8", OTHER_STUDY, "INT8"))
    marks = {mark["row"]: (mark["x"], mark["y"]) for group in chart.data()["groups"] for mark in group["marks"]}
    assert marks == {
        row: (pytest.approx(100 * first), pytest.approx(100 * second))
        for row, (first, second) in enumerate(zip(DROPS, OTHER, strict=True))
        if first is not None
    }


def test_the_page_takes_another_study_a_search_and_a_verification(tmp_path: Path) -> None:
    text = page(tmp_path, other=OTHER_STUDY, tuned=TUNED, verification=VERIFICATION)
    assert set(charts(text)) == {"size", "path", "codes", "times", "comparison"}
    assert "Compared with other scenes" in text
    assert "TinyNet meets a drop of at most 1 point" in text
    assert "openvino does not compute what was simulated" in text
    assert [row[0] for row in Reader(text).tables[-1][1:]] == [layer.name for layer in STUDY.layers]


def test_the_curve_of_sizes_goes_from_everything_quantized_to_everything_in_float(tmp_path: Path) -> None:
    curve, measured = charts(page(tmp_path, tuned=TUNED))["size"]["groups"]
    assert [mark["x"] for mark in measured["marks"]] == [8.0, 8.0, 11.0]
    sizes = [mark["x"] for mark in curve["marks"]]
    assert sizes == sorted(sizes)
    assert curve["marks"][-1]["y"] >= 78.5


def test_a_study_of_all_but_one_predicts_no_sizes(tmp_path: Path) -> None:
    replace(STUDY, direction="all-but-one").to_html(tmp_path / "page.html")
    assert charts((tmp_path / "page.html").read_text(encoding="utf-8")) == {}


def test_recipes_that_could_be_meant_must_be_named(tmp_path: Path) -> None:
    several = with_second_recipe(STUDY)
    with pytest.raises(StudyError, match="other_recipe: this study has 2 recipes; name one with recipe=: INT8, INT4"):
        STUDY.to_html(tmp_path / "page.html", other=several)
    STUDY.to_html(tmp_path / "page.html", other=several, other_recipe="INT4")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Compared with INT4" in text
