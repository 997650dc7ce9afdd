from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.advise.flags import flags, measured_flag, stored_tolerance
from sensitivity.errors import StudyError
from sensitivity.records import Measurement, Score
from tests.made_studies import make_study, with_second_recipe


def flag(drop: float | None, low: float | None = None, high: float | None = None, limit: float = 0.001) -> str | None:
    return measured_flag(Measurement("a:0:0", "INT8", 0.5, drop, drop_low=low, drop_high=high), limit)


@pytest.mark.parametrize(
    ("drop", "low", "high", "expected"),
    [
        (0.05, None, None, "dip"),
        (0.0005, None, None, "noise"),
        (-0.0005, None, None, "noise"),
        (-0.05, None, None, None),
        (0.05, 0.04, 0.06, "dip"),
        (0.05, -0.01, 0.11, "noise"),
        (0.0005, 0.0004, 0.0006, None),
        (-0.05, -0.06, -0.04, None),
        (0.05, -0.06, -0.04, None),
        (None, None, None, None),
        (math.nan, None, None, None),
        (math.inf, None, None, "dip"),
    ],
)
def test_a_measurement_is_a_dip_or_noise_or_neither(
    drop: float | None, low: float | None, high: float | None, expected: str | None
) -> None:
    assert flag(drop, low, high) == expected


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.1))
def test_a_dip_is_above_the_tolerance_and_its_interval_above_zero(drop: float, half: float, limit: float) -> None:
    found = flag(drop, drop - half, drop + half, limit)
    assert (found == "dip") is (drop > limit and drop - half > 0)
    assert (found == "noise") is (drop - half <= 0 <= drop + half)


def test_structural_flags_are_kept_and_measured_ones_added() -> None:
    study = make_study([0.0, 0.05, None])
    found = flags(study)
    assert list(found) == [layer.name for layer in study.layers]
    assert list(found.values()) == [{"no-norm", "noise"}, {"depthwise", "dip"}, {"exit", "no-activation"}]


def test_the_tolerance_is_in_points_and_decides() -> None:
    study = make_study([0.05])
    (name,) = flags(study)
    assert "dip" in flags(study)[name]
    assert "dip" in flags(study, tolerance=4.9)[name]
    assert "noise" in flags(study, tolerance=5.1)[name]


def test_the_default_tolerance_is_a_tenth_of_a_point_or_a_thousandth_of_the_baseline() -> None:
    study = make_study([0.05])
    assert stored_tolerance(study, None) == pytest.approx(0.001)
    loss = replace(study, unit="", baseline=Score(-20.0, {}, "loss", "", 10))
    assert stored_tolerance(loss, None) == pytest.approx(0.02)
    assert stored_tolerance(loss, 0.3) == 0.3
    assert stored_tolerance(replace(loss, baseline=Score(math.inf, {}, "sqnr", "dB", 10)), None) == 0.0


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_a_tolerance_that_is_no_size_is_refused(tolerance: float) -> None:
    with pytest.raises(StudyError, match="give a drop that does not matter"):
        flags(make_study([0.1]), tolerance=tolerance)


def test_flags_are_of_one_recipe() -> None:
    study = with_second_recipe(make_study([0.0005]))
    (name,) = flags(study, recipe="INT8")
    assert "noise" in flags(study, recipe="INT8")[name]
    assert "dip" in flags(study, recipe="INT4")[name]
    with pytest.raises(StudyError, match="2 recipes"):
        flags(study)


def test_all_but_one_has_no_measured_flags() -> None:
    study = make_study([0.3, 0.2], direction="all-but-one")
    assert not {"dip", "noise"} & frozenset().union(*flags(study).values())


def test_an_unknown_recipe_is_an_error_in_either_direction() -> None:
    for direction in ("one-at-a-time", "all-but-one"):
        with pytest.raises(StudyError, match="no recipe 'FP8'"):
            flags(make_study([0.3], direction=direction), recipe="FP8")


@pytest.mark.parametrize(
    ("signal", "below", "at", "flag"),
    [
        ("dead_share", 0.099, 0.1, "dead"),
        ("clipped_share", 0.0099, 0.01, "saturated"),
        ("channel_ratio", 9.9, 10.0, "outlier-channels"),
    ],
)
def test_signals_raise_flags_from_their_thresholds_on(signal: str, below: float, at: float, flag: str) -> None:
    study = make_study([0.05, 0.05, 0.05])
    values = ({signal: below}, {signal: at}, {})
    marked = replace(
        study, measurements=tuple(replace(m, signals=v) for m, v in zip(study.measurements, values, strict=True))
    )
    assert [flag in found for found in flags(marked).values()] == [False, True, False]
    assert all("dip" in found for found in flags(marked).values())
    assert [flag in text.split(", ") for text in marked.table()["flags"][:3]] == [False, True, False]
