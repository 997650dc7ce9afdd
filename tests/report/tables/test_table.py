from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sensitivity.errors import StudyError
from sensitivity.records import SkippedModule
from sensitivity.records.size import layer_bytes
from sensitivity.report.tables.table import compare, frame
from sensitivity.study import Study, read
from tests.made_studies import INT8, make_study, random_study, with_intervals, with_second_recipe

COLUMNS = [
    "name", "module", "kind", "role", "traits", "drop", "drop_low", "drop_high", "verdict", "images_needed", "score",
    "images", "status", "reason",
    "miou", "miou_small", "parameters", "weight_bytes", "saved_bytes", "macs", "output_sqnr_db",
]  # fmt: skip


def framed(study: Study, recipe: str | None = None) -> pd.DataFrame:
    return frame(read(study), recipe)


def test_one_row_a_layer_in_execution_order_then_the_skipped_modules() -> None:
    study = random_study(12, failed=2)
    table = framed(study)
    assert list(table.columns) == COLUMNS
    assert list(table["name"][:12]) == [layer.name for layer in study.layers]
    last = table.iloc[-1]
    assert (last["module"], last["status"]) == ("head.unused", "skipped")
    assert last["reason"] == "never called with the example inputs"
    assert pd.isna(last["name"])


def test_scores_are_in_percent_and_signals_and_sizes_as_they_are() -> None:
    study = with_intervals(make_study([0.0431]))
    row, layer, measurement = framed(study).iloc[0], study.layers[0], study.measurements[0]
    assert row["drop"] == pytest.approx(4.31)
    assert row["drop_low"] == pytest.approx(100 * measurement.drop_low)
    assert row["drop_high"] == pytest.approx(100 * measurement.drop_high)
    assert row["score"] == row["miou"] == pytest.approx(74.19)
    assert row["miou_small"] == pytest.approx(69.19)
    assert row["output_sqnr_db"] == 30.0
    assert (row["parameters"], row["macs"], row["images"]) == (layer.parameters, layer.macs, 50)
    assert row["saved_bytes"] == layer_bytes(layer, None) - layer_bytes(layer, INT8)
    assert row["traits"] == "dip, no-norm"


def test_other_units_are_not_scaled() -> None:
    assert framed(make_study([0.25], unit="dB"))["drop"][0] == 0.25


def test_what_is_absent_is_nan_and_has_its_reason() -> None:
    study = make_study([0.1, None, 0.2])
    study = replace(
        study, measurements=study.measurements[:2], layers=(*study.layers[:2], replace(study.layers[2], macs=None))
    )
    table = framed(study)
    numbers = table[["drop", "drop_low", "drop_high", "score", "miou", "output_sqnr_db"]]
    assert numbers[1:3].isna().all().all()
    assert list(table["status"][:3]) == ["measured", "failed", "not analysed"]
    assert table["reason"][1] == "NaN in the output"
    assert math.isnan(table["macs"][2])
    assert not ({-1.0} & set(table.select_dtypes("number").to_numpy().ravel()))


def test_numbers_are_numbers_even_where_all_are_absent() -> None:
    table = framed(make_study([None, None]))
    assert table["drop"].dtype == np.float64
    assert table["drop"].isna().all()


def test_a_study_of_nothing_is_an_empty_table() -> None:
    assert framed(make_study([], skipped=())).empty


def test_several_recipes_are_told_apart_by_a_column() -> None:
    study = with_second_recipe(make_study([0.1, 0.2]))
    table = framed(study)
    assert list(table["recipe"][:4]) == ["INT8", "INT8", "INT4", "INT4"]
    assert table["drop"][2] == pytest.approx(3 * table["drop"][0])
    assert table["saved_bytes"][2] > table["saved_bytes"][0]
    single = framed(study, "INT4")
    assert "recipe" not in single
    assert list(single["drop"][:2]) == list(table["drop"][2:4])


def test_an_unknown_recipe_is_an_error() -> None:
    with pytest.raises(StudyError, match=r"no recipe 'FP8' in this study\. It has: INT8"):
        framed(make_study([0.1]), "FP8")


def test_metrics_and_signals_never_overwrite_another_column() -> None:
    study = make_study([0.1])
    clash = replace(study.measurements[0], metrics={"score": 0.5, "sharp": 0.25}, signals={"drop": 7.0, "sharp": 8.0})
    row = framed(replace(study, measurements=(clash,))).iloc[0]
    assert row["score"] == pytest.approx(68.5)
    assert row["drop"] == pytest.approx(10.0)
    assert (row["score (metric)"], row["sharp"], row["drop (signal)"], row["sharp (signal)"]) == (50.0, 25.0, 7.0, 8.0)


def test_the_table_knows_its_baseline() -> None:
    assert framed(make_study([0.1])).attrs == {
        "model": "TinyNet", "task": "generated scenes", "metric": "miou", "unit": "%", "baseline": 78.5,
        "rank_correlation": {"INT8": {}},
    }  # fmt: skip


def test_a_study_compared_with_itself_agrees() -> None:
    study = random_study(20)
    both = compare(study, study)
    assert list(both.columns) == ["name", "kind", "role", "drop", "drop_other", "rank", "rank_other"]
    assert list(both["name"]) == [layer.name for layer in study.layers]
    assert both["drop"].equals(both["drop_other"])
    assert both.attrs == {"layers_compared": 20, "rank_correlation": pytest.approx(1.0)}


def test_rank_correlation_equals_the_textbook_formula() -> None:
    # ranks 1 2 3 4 5 against 1 3 2 5 4: rho = 1 - 6 * sum(d^2) / (n (n^2 - 1)) = 1 - 6 * 4 / 120
    first, second = make_study([0.5, 0.4, 0.3, 0.2, 0.1]), make_study([0.5, 0.3, 0.4, 0.1, 0.2])
    both = compare(first, second)
    assert both.attrs["rank_correlation"] == pytest.approx(1 - 6 * 4 / 120)
    assert list(both["rank_other"]) == [1, 3, 2, 5, 4]


def test_rank_correlation_is_free_of_scale_and_unit() -> None:
    first = random_study(15)
    second = replace(first, unit="dB", measurements=tuple(replace(m, drop=m.drop**3 * 40) for m in first.measurements))
    assert compare(first, second).attrs["rank_correlation"] == pytest.approx(1.0)


def test_layers_known_to_one_study_only_are_kept_and_not_correlated() -> None:
    first, second = make_study([0.1, 0.2, None, 0.3]), make_study([0.3, 0.2, 0.1, 0.4])
    second = replace(second, measurements=second.measurements[1:])
    both = compare(first, second).set_index("name")
    names = [layer.name for layer in first.layers]
    assert list(both.index) == names
    assert math.isnan(both.loc[names[0], "drop_other"])
    assert math.isnan(both.loc[names[2], "drop"])
    assert compare(first, second).attrs["layers_compared"] == 2


@pytest.mark.parametrize("drops", [[0.1], [0.1, 0.1, 0.1], []])
def test_rank_correlation_of_nothing_to_rank_is_nan(drops: list[float]) -> None:
    study = make_study(list(drops))
    assert math.isnan(compare(study, study).attrs["rank_correlation"])


def test_two_recipes_of_one_study_compare_by_name() -> None:
    study = with_second_recipe(make_study([0.1, 0.2]))
    both = compare(study, study, recipe="INT8", other_recipe="INT4")
    assert list(both["drop_other"]) == pytest.approx([30.0, 60.0])
    with pytest.raises(StudyError, match="2 recipes; name one"):
        compare(study, study, recipe="INT8")


def test_skipped_modules_appear_once_however_many_recipes() -> None:
    study = with_second_recipe(make_study([0.1], skipped=(SkippedModule("a", "x"), SkippedModule("b", "y"))))
    assert list(framed(study)["module"][-2:]) == ["a", "b"]
    assert len(framed(study)) == 4
