from __future__ import annotations

from math import inf, nan

import pytest

import sensitivity as sv
from sensitivity.records.units import drop_text, number_text, score_text


@pytest.mark.parametrize(
    ("drop", "unit", "text"),
    [
        (1.0, "%", "1 point"),
        (-1.0, "%", "-1 point"),
        (0.5, "%", "0.5 points"),
        (1.00004, "%", "1 point"),
        (2.0, "%", "2 points"),
        (1.0, "dB", "1 dB"),
        (1.0, "", "1"),
        (nan, "%", "undefined"),
        (inf, "dB", "inf dB"),
    ],
)
def test_one_point_is_singular(drop: float, unit: str, text: str) -> None:
    assert drop_text(drop, unit) == text


def test_the_digits_decide_what_is_one() -> None:
    assert drop_text(1.0, "%", ".2f") == "1.00 points"


def test_what_is_no_number_is_a_word_in_a_sentence_and_a_dash_in_a_table() -> None:
    assert (score_text(nan, "%"), score_text(78.512, "%")) == ("undefined", "78.51 %")
    assert (number_text(nan), number_text(inf), number_text(0.5)) == ("–", "inf", "0.5")


def test_a_score_shows_no_nan() -> None:
    score = sv.Score(nan, {"AP": nan, "APsmall": nan, "APlarge": 0.25}, "AP", "%", 3)
    assert repr(score) == "AP undefined on 3 images\n  APsmall –\n  APlarge 25"
    assert "nan" not in score._repr_html_()
    assert ">–<" in score._repr_html_()
