"""Signals as a mapping and a table, and how a study takes them in."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.errors import StudyError
from sensitivity.records import Signals
from sensitivity.study import Study
from tests.made_studies import INT4, INT8, make_study, with_second_recipe


def signals_of(study: Study, values: dict[str, list[float]], **changes: object) -> Signals:
    """Signals of the study's first layers."""
    count = len(next(iter(values.values())))
    names = [layer.name for layer in study.layers][:count]
    by_layer = {name: {key: column[i] for key, column in values.items()} for i, name in enumerate(names)}
    return replace(Signals("TinyNet", INT8, by_layer, 4), **changes)


def test_they_are_a_mapping_and_a_table_with_what_failed() -> None:
    study = make_study([0.1, 0.2, 0.3])
    signals = signals_of(study, {"output_sqnr_db": [30.0, 20.0]}, failed={"stage2:0:0": "does not fit"})
    assert list(signals) == ["stage0:0:0", "stage1:0:0"]
    assert signals["stage1:0:0"] == {"output_sqnr_db": 20.0}
    table = signals.to_frame()
    assert table["name"].tolist() == ["stage0:0:0", "stage1:0:0", "stage2:0:0"]
    assert table["output_sqnr_db"].tolist()[:2] == [30.0, 20.0]
    assert math.isnan(table["output_sqnr_db"].iloc[2])
    assert "stage2:0:0: does not fit" in repr(signals)
    assert "ESTIMATES" not in repr(signals)


def test_a_study_shows_them_in_its_table_and_keeps_what_it_had(tmp_path: Path) -> None:
    study = make_study([0.1, 0.2, 0.3])
    both = study.with_signals(
        signals_of(study, {"weight_sqnr_db": [31.0, 21.0, 11.0]}),
        signals_of(study, {"estimate_output_mse": [1.0, 2, 3]}),
    )
    table = both.table()
    assert table["weight_sqnr_db"].tolist()[:3] == [31.0, 21.0, 11.0]
    assert table["estimate_output_mse"].tolist()[:3] == [1.0, 2.0, 3.0]
    assert table["output_sqnr_db"].tolist()[:3] == [30.0] * 3  # was there before
    assert [m.drop for m in both.measurements] == [m.drop for m in study.measurements]
    assert study.measurements[0].signals == {"output_sqnr_db": 30.0}
    assert any("estimate_* are estimates from 4 image(s), not measured drops" in note for note in both.notes)
    both.save(tmp_path / "study.json")
    assert Study.load(tmp_path / "study.json") == both


def test_they_go_to_the_recipe_that_does_the_same_whatever_its_name() -> None:
    study = with_second_recipe(make_study([0.1, 0.2]))
    signals = signals_of(study, {"weight_sqnr_db": [31.0, 21.0]}, recipe=INT4.renamed("other"))
    joined = study.with_signals(signals)
    assert [m.signals.get("weight_sqnr_db") for m in joined.of_recipe("INT4")] == [31.0, 21.0]
    assert [m.signals.get("weight_sqnr_db") for m in joined.of_recipe("INT8")] == [None, None]


def test_what_is_left_out_is_in_the_notes() -> None:
    study = make_study([0.1, 0.2, 0.3])
    analysed = replace(study, measurements=study.measurements[:2])
    signals = signals_of(
        study, {"weight_sqnr_db": [1.0, 2.0, 3.0]}, failed={"stage0:0:0": "NaN"}, notes=("not replayed",)
    )
    notes = analysed.with_signals(signals).notes
    assert "INT8: signals of layers that were not analysed are left out: stage2:0:0" in notes
    assert "INT8: no signals of stage0:0:0: NaN" in notes
    assert "INT8: not replayed" in notes


def test_the_same_signals_a_second_time_change_nothing() -> None:
    study = make_study([0.1, 0.2, 0.3])
    signals = signals_of(study, {"estimate_output_mse": [1.0, 2.0]}, failed={"stage2:0:0": "NaN"}, notes=("slow",))
    once = study.with_signals(signals)
    assert len(once.notes) == len(study.notes) + 3
    assert once.with_signals(signals) == once
    more = once.with_signals(replace(signals, failed={"stage2:0:0": "infinity"}))
    assert more.notes == (*once.notes, "INT8: no signals of stage2:0:0: infinity")


def test_signals_of_another_recipe_model_or_direction_are_refused() -> None:
    study = make_study([0.1, 0.2])
    with pytest.raises(StudyError, match=r"signals are of recipe 'INT4', which does something else.*: INT8"):
        study.with_signals(signals_of(study, {"weight_sqnr_db": [1.0]}, recipe=INT4))
    with pytest.raises(StudyError, match="layers that this study does not have: elsewhere:0:0"):
        study.with_signals(Signals("Other", INT8, {"elsewhere:0:0": {"weight_sqnr_db": 1.0}}, 1))
    turned = make_study([0.1], direction="all-but-one")
    with pytest.raises(StudyError, match="say nothing of all-but-one"):
        turned.with_signals(signals_of(turned, {"weight_sqnr_db": [1.0]}))


def test_the_agreement_with_the_drops_is_reported_where_both_exist() -> None:
    study = make_study([0.01, 0.02, 0.04, 0.03])
    assert study.table().attrs["rank_correlation"] == {"INT8": {}}
    assert "rank correlation" not in repr(study)
    joined = study.with_signals(
        signals_of(study, {"estimate_output_mse": [1.0, 2.0, 4.0, 3.0], "weight_sqnr_db": [1.0, 2.0, 4.0, 3.0]})
    )
    correlations = joined.table().attrs["rank_correlation"]["INT8"]
    assert correlations == {"estimate_output_mse": pytest.approx(1.0), "weight_sqnr_db": pytest.approx(-1.0)}
    assert "rank correlation with the drops: estimate_output_mse 1.00, weight_sqnr_db -1.00" in repr(joined)
    assert "estimate_output_mse 1.00" in joined._repr_html_()


def test_signals_found_on_a_model_reach_its_study() -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(5)]).eval()
    images = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    wrapped = sv.wrap(model, images[:1])
    study = wrapped.analyze(sv.FeatureFidelity(images), sv.INT4_WEIGHTS, progress=False)
    joined = study.with_signals(wrapped.signals(images, sv.INT4_WEIGHTS), wrapped.screen(images[:1], sv.INT4_WEIGHTS))
    table = joined.table().dropna(subset="drop")
    # the task is the SQNR of the outputs: the signal must be the score itself
    assert table["output_sqnr_db"].tolist() == pytest.approx(table["score"].tolist(), rel=1e-6)
    assert joined.table().attrs["rank_correlation"]["int4-weights"]["output_sqnr_db"] == pytest.approx(1.0)
