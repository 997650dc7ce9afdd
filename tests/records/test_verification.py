"""A verification record: its gates, and JSON both ways."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from sensitivity.errors import StudyError
from sensitivity.records.verification import Gates, LayerCheck, VerificationRecord

RECORD = VerificationRecord(
    model="net",
    engine="openvino",
    layers=(
        LayerCheck("a:0:0", "a", "int8", "int8", "verified", time_s=1e-4, codes=100, code_steps=1, code_share=0.01),
        LayerCheck("b:0:0", "b", "fp32", None, "in float"),
    ),
    output_sqnr_db=30.0,
    simulation_sqnr_db=24.0,
    task="t",
    metric="mIoU",
    unit="%",
    images=10,
    metric_fp32=0.90,
    metric_simulated=0.89,
    metric_deployed=0.891,
    metric_variants={"other": 0.8895},
    latency_int8_s=0.001,
    latency_fp32_s=0.003,
)


def test_numbers_that_follow_from_others() -> None:
    assert RECORD.metric_difference == pytest.approx(0.001)
    assert RECORD.metric_tolerance == pytest.approx(0.001)  # 0.1 points, and 10 % of a drop of 1 point
    assert RECORD.metric_spread == pytest.approx(0.0005)
    assert RECORD.speedup == pytest.approx(3.0)


def test_all_gates_pass_at_their_edge() -> None:
    assert (RECORD.layers_pass, RECORD.outputs_pass) == (True, True)
    assert replace(RECORD, metric_deployed=0.8909).metric_pass
    assert replace(RECORD, metric_deployed=0.8909).passed


@pytest.mark.parametrize("status", ["other precision", "disagrees", "not checked", "simulated only"])
def test_one_layer_that_is_not_verified_fails_all(status: str) -> None:
    wrong = replace(RECORD, layers=(*RECORD.layers, replace(RECORD.layers[0], status=status)))
    assert not wrong.layers_pass
    assert not wrong.passed


def test_outputs_must_be_six_decibels_nearer() -> None:
    assert replace(RECORD, output_sqnr_db=29.9).outputs_pass is False
    assert replace(RECORD, output_sqnr_db=math.inf).outputs_pass is True
    assert replace(RECORD, output_sqnr_db=-math.inf).outputs_pass is False
    assert replace(RECORD, output_sqnr_db=None).outputs_pass is None
    assert replace(RECORD, output_sqnr_db=27.0, gates=Gates(output_margin_db=3.0)).outputs_pass is True


def test_a_large_predicted_drop_allows_a_larger_difference() -> None:
    assert replace(RECORD, metric_simulated=0.50, metric_deployed=0.53).metric_pass
    assert not replace(RECORD, metric_simulated=0.50, metric_deployed=0.55).metric_pass


def test_a_metric_outside_its_gate_is_excused_by_the_spread_of_roundings_alone() -> None:
    outside = replace(RECORD, metric_deployed=0.893)
    assert (outside.metric_pass, outside.metric_uncertain, outside.passed) == (False, False, False)
    unsure = replace(outside, metric_variants={"other": 0.886})
    assert (unsure.metric_pass, unsure.metric_uncertain, unsure.passed) == (False, True, True)


def test_what_was_not_measured_is_none() -> None:
    bare = VerificationRecord("net", "openvino", RECORD.layers)
    assert {bare.metric_difference, bare.metric_tolerance, bare.metric_spread, bare.metric_pass, bare.speedup} == {None}
    assert bare.passed


def test_json_both_ways(tmp_path: Path) -> None:
    strange = replace(RECORD, output_sqnr_db=math.inf, info={"parts": ["", "x"], "version": None})
    assert VerificationRecord.from_json(json.loads(json.dumps(strange.to_json(), allow_nan=False))) == strange
    strange.save(tmp_path / "v.json")
    assert VerificationRecord.load(tmp_path / "v.json") == strange


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a verification of schema 1: none"),
        ('{"schema": 9}', "not a verification of schema 1: 9"),
        ("[]", "not a verification of schema 1: list"),
        ('{"schema": 1}', "not a complete verification"),
        ("{", "is not JSON"),
    ],
)
def test_what_is_no_verification_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "v.json").write_text(content, encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        VerificationRecord.load(tmp_path / "v.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no verification at"):
        VerificationRecord.load(tmp_path / "absent.json")
