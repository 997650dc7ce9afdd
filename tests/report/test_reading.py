from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sensitivity.advise.rank import worst_first
from sensitivity.errors import StudyError
from sensitivity.records.size import layer_bytes
from sensitivity.study import read
from tests.made_studies import INT4, make_study, random_study, with_second_recipe


@pytest.mark.parametrize(
    ("stored", "text"),
    [(0.0431, "4.31"), (0.0, "0.00"), (-0.0, "0.00"), (0.00001, "0.001"), (-0.00003, "-0.003"), (math.inf, "inf")],
)
def test_fractions_are_shown_in_percent_and_never_as_nothing(stored: float, text: str) -> None:
    assert read(make_study([0.1])).shown(stored) == text


def test_other_units_are_shown_as_they_are_stored() -> None:
    reading = read(make_study([0.1], unit="dB"))
    assert reading.shown(12.3) == "12.30"
    assert (reading.score_unit, reading.drop_unit, reading.baseline) == (" dB", " dB", "miou 0.79 dB")


def test_a_difference_of_percentages_is_in_points() -> None:
    reading = read(make_study([0.1]))
    assert (reading.score_unit, reading.drop_unit, reading.baseline) == (" %", " points", "miou 78.50 %")
    bare = read(make_study([0.1], unit=""))
    assert (bare.score_unit, bare.drop_unit) == ("", "")


def test_a_drop_or_interval_that_is_absent_is_no_text() -> None:
    study = make_study([0.1])
    reading, measurement = read(study), study.measurements[0]
    assert reading.drop(measurement) == "10.00"
    assert reading.drop(replace(measurement, drop=None)) == reading.drop(replace(measurement, drop=math.nan)) == ""
    assert reading.interval(replace(measurement, drop_low=0.08, drop_high=0.12)) == "[8.00, 12.00]"
    assert reading.interval(measurement) == reading.interval(replace(measurement, drop_low=0.08)) == ""


def test_the_reading_holds_what_the_advice_room_finds_for_every_recipe() -> None:
    study = with_second_recipe(random_study(12, failed=1))
    reading = read(study)
    for recipe in ("INT8", "INT4"):
        assert reading.flags[recipe] == study.flags(recipe=recipe)
        assert reading.worst_first[recipe] == worst_first(study, recipe)
    first = study.layers[0]
    assert reading.saved_bytes["INT4"][first.name] == layer_bytes(first, None) - layer_bytes(first, INT4)
    assert reading.tolerance == pytest.approx(0.001)


def test_recipes_are_the_one_asked_for_or_all() -> None:
    reading = read(with_second_recipe(make_study([0.1])))
    assert reading.recipes(None) == ("INT8", "INT4")
    assert reading.recipes("INT4") == ("INT4",)
    with pytest.raises(StudyError, match="no recipe 'FP8'"):
        reading.recipes("FP8")
