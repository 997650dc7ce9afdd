from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sensitivity.advise.rank import has_drop, rank_agreement, stored_drop, worst_first
from sensitivity.errors import StudyError
from sensitivity.records import Measurement
from tests.made_studies import make_study, with_second_recipe


def names(study, **options):
    at = {layer.name: layer.order for layer in study.layers}
    return [at[m.layer] for m in worst_first(study, **options)]


def test_the_largest_drop_comes_first_and_ties_stay_in_execution_order() -> None:
    assert names(make_study([0.1, 0.3, 0.1, -0.2, 0.3])) == [1, 4, 0, 2, 3]


def test_layers_without_a_drop_are_not_ranked() -> None:
    study = make_study([0.1, None, 0.3])
    broken = replace(study.measurements[0], drop=math.nan)
    assert names(replace(study, measurements=(broken, *study.measurements[1:]))) == [2]


def test_all_but_one_ranks_the_layer_whose_protection_helps_most_first() -> None:
    assert names(make_study([0.4, 0.1, 0.3], direction="all-but-one")) == [1, 2, 0]


def test_several_recipes_need_a_name() -> None:
    study = with_second_recipe(make_study([0.1, 0.2]))
    assert [m.recipe for m in worst_first(study, "INT4")] == ["INT4", "INT4"]
    with pytest.raises(StudyError, match="2 recipes; name one"):
        worst_first(study)


@pytest.mark.parametrize(
    ("drop", "known"), [(0.0, True), (-1.0, True), (math.inf, True), (None, False), (math.nan, False)]
)
def test_a_drop_is_a_number(drop: float | None, known: bool) -> None:
    measurement = Measurement("a:0:0", "INT8", None, drop)
    assert has_drop(measurement) is known
    assert known is not math.isnan(stored_drop(measurement))


def study_with(signal: str, values: list[float], drops: list[float | None]):
    study = make_study(drops)
    measured = (replace(m, signals={signal: v}) for m, v in zip(study.measurements, values, strict=True))
    return replace(study, measurements=tuple(measured))


def test_the_agreement_is_one_where_a_signal_orders_the_layers_as_the_drops_do() -> None:
    drops: list[float | None] = [0.1, 0.4, 0.2, 0.3]
    assert rank_agreement(study_with("estimate_output_mse", [1, 9, 2, 5], drops)) == {"estimate_output_mse": 1.0}
    assert rank_agreement(study_with("output_sqnr_db", [40, 10, 30, 20], drops)) == {"output_sqnr_db": 1.0}
    assert rank_agreement(study_with("estimate_first_order", [9, 1, 5, 2], drops)) == {"estimate_first_order": -1.0}


def test_what_is_no_guess_at_a_drop_has_no_agreement_with_it() -> None:
    assert rank_agreement(study_with("dead_share", [0.1, 0.2, 0.3], [0.1, 0.2, 0.3])) == {}


def test_layers_without_a_drop_or_a_finite_signal_do_not_count() -> None:
    values = [1.0, 2.0, 3.0, math.nan, 0.0]
    assert rank_agreement(study_with("output_cosine", values, [0.3, 0.2, 0.1, 0.9, None])) == {"output_cosine": 1.0}
    assert rank_agreement(study_with("output_cosine", values[:3], [0.3, 0.2, None])) == {}


def test_all_but_one_has_no_agreement() -> None:
    study = replace(study_with("output_cosine", [1, 2, 3], [0.3, 0.2, 0.1]), direction="all-but-one")
    assert rank_agreement(study) == {}
