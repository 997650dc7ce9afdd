from __future__ import annotations

from dataclasses import replace

import pytest

from sensitivity.advise.flags import flags
from sensitivity.errors import StudyError
from tests.made_studies import make_study, with_intervals, with_second_recipe


def test_structural_flags_are_kept_and_dips_added() -> None:
    study = make_study([0.0, 0.05, None])
    flags_of_layers = flags(study)
    assert list(flags_of_layers) == [layer.name for layer in study.layers]
    assert list(flags_of_layers.values()) == [{"no-norm"}, {"depthwise", "dip"}, {"exit", "no-activation"}]


def test_an_undecided_layer_is_no_dip() -> None:
    study = with_intervals(make_study([0.05, 0.05]), half=0.06)
    assert "dip" not in frozenset().union(*flags(study).values())


def test_the_tolerance_is_in_points_and_decides() -> None:
    study = make_study([0.05])
    (name,) = flags(study)
    assert "dip" in flags(study)[name]
    assert "dip" in flags(study, tolerance=4.9)[name]
    assert "dip" not in flags(study, tolerance=5.1)[name]


def test_flags_are_of_one_recipe() -> None:
    study = with_second_recipe(make_study([0.0005]))
    (name,) = flags(study, recipe="INT8")
    assert "dip" not in flags(study, recipe="INT8")[name]
    assert "dip" in flags(study, recipe="INT4")[name]
    with pytest.raises(StudyError, match="2 recipes"):
        flags(study)


def test_all_but_one_has_no_measured_flags() -> None:
    study = make_study([0.3, 0.2], direction="all-but-one")
    assert "dip" not in frozenset().union(*flags(study).values())


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
    assert [flag in names for names in flags(marked).values()] == [False, True, False]
    assert all("dip" in names for names in flags(marked).values())
    assert [flag in text.split(", ") for text in marked.table()["traits"][:3]] == [False, True, False]
