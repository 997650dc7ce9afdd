from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sensitivity.advise.rank import drop_of, has_drop, worst_first
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
    assert known is not math.isnan(drop_of(measurement))
