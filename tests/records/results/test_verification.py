"""A verification record: its gates, and JSON both ways."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sensitivity.errors import StudyError
from sensitivity.records.results.info import VerificationInfo
from sensitivity.records.results.verification import (
    Cause,
    Gates,
    LayerCheck,
    LayerStatus,
    OutputCheck,
    VerificationRecord,
)

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


@pytest.mark.parametrize("status", ["verified", "agrees in float", "in float", "left in float"])
def test_a_layer_that_is_as_planned_passes(status: str) -> None:
    assert replace(RECORD, layers=(replace(RECORD.layers[0], status=status),)).layers_pass


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


def test_an_output_in_float_is_asked_for_no_more_than_float_rounding_gives() -> None:
    untouched = OutputCheck("", 10_000, sqnr_db=130.0, simulation_sqnr_db=math.inf)
    assert untouched.passes(Gates()) is True
    assert replace(untouched, sqnr_db=70.0).passes(Gates()) is False
    assert replace(untouched, sqnr_db=70.0).passes(Gates(float_sqnr_db=60.0)) is True


def test_noises_of_few_numbers_are_uncertain() -> None:
    """The ratio of two noises, each of n independent normal numbers, leaves its gate by chance in a few percent."""
    random = np.random.default_rng(0)
    for elements in (10, 40, 1000):
        engine, simulation = (random.standard_normal((2000, elements)) ** 2 for _ in range(2))
        far, near = (-10.0 * np.log10(noises.mean(1)) for noises in (engine, simulation))
        checks = [OutputCheck("", elements, float(36.0 + a), float(30.0 + b)) for a, b in zip(far, near, strict=True)]
        failed = sum(check.passes(Gates()) is False for check in checks) / len(checks)
        assert 0.005 < failed < 0.05, elements


def test_an_output_of_integers_is_judged_by_the_share_that_differs() -> None:
    check = OutputCheck("", 1000, share=0.02, simulation_share=0.05)
    assert check.passes(Gates()) is True
    assert replace(check, share=0.03).passes(Gates()) is False
    assert replace(check, share=0.03).passes(Gates(output_margin_db=3.0)) is True
    assert replace(check, share=0.02, simulation_share=None).passes(Gates()) is None
    assert replace(check, share=0.0, simulation_share=None).passes(Gates()) is True


def test_one_wrong_output_is_enough_and_an_empty_one_says_nothing() -> None:
    right, wrong = OutputCheck("a", 100, 60.0, 30.0), OutputCheck("b", 100, 20.0, 30.0)
    empty = OutputCheck("c", 0, reason="no elements")
    assert replace(RECORD, outputs=(right, empty)).outputs_pass is True
    assert replace(RECORD, outputs=(right, wrong)).outputs_pass is False
    assert replace(RECORD, outputs=(empty,)).outputs_pass is None


def test_a_metric_in_decibels_has_gates_of_its_own() -> None:
    decibels = replace(RECORD, unit="dB", metric_fp32=150.0, metric_simulated=30.0, metric_deployed=28.9)
    assert decibels.metric_tolerance == 1.0
    assert decibels.metric_pass is False
    assert replace(decibels, gates=Gates(metric_db=2.0)).metric_pass
    assert Gates().metric_tolerance("dB", 120.0, single_layer=True) == 0.1
    assert Gates(single_layer_db=0.3).metric_tolerance("dB", 120.0, single_layer=True) == 0.3
    assert Gates().metric_tolerance("%", 0.5, single_layer=True) == pytest.approx(0.05)


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
    assert bare.outputs_pass is None
    assert not bare.passed, "outputs that were not compared have not passed"


def test_json_both_ways(tmp_path: Path) -> None:
    strange = replace(RECORD, output_sqnr_db=math.inf, info={"parts": ["", "x"], "version": None})
    strange = replace(strange, outputs=(OutputCheck("a", 3, -math.inf, None, reason="shapes differ"),))
    assert VerificationRecord.from_json(json.loads(json.dumps(strange.to_json(), allow_nan=False))) == strange
    strange.save(tmp_path / "v.json")
    assert VerificationRecord.load(tmp_path / "v.json") == strange


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a verification: it has no 'schema'"),
        ('{"schema": 9}', "verification of schema 9; this version reads 1"),
        ("[]", "not a verification: it has no 'schema'"),
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


def test_status_and_cause_come_back_as_values_and_a_file_without_causes_still_opens() -> None:
    wrong = replace(RECORD.layers[0], status=LayerStatus.DISAGREES, cause=Cause.SATURATION)
    plain = json.loads(json.dumps(replace(RECORD, layers=(wrong,)).to_json()))
    assert (plain["layers"][0]["status"], plain["layers"][0]["cause"]) == ("disagrees", "saturation")
    (check,) = VerificationRecord.from_json(plain).layers
    assert (check.status, check.cause) == (LayerStatus.DISAGREES, Cause.SATURATION)
    del plain["layers"][0]["cause"]
    assert VerificationRecord.from_json(plain).layers[0].cause is None


@pytest.mark.parametrize("field", ["status", "cause"])
def test_a_status_or_cause_that_nobody_knows_is_no_verification(field: str) -> None:
    plain = RECORD.to_json()
    plain["layers"][0][field] = "perhaps"
    with pytest.raises(StudyError, match=r"not a complete verification: .*'perhaps'"):
        VerificationRecord.from_json(plain)


def test_facts_are_fields_and_a_mapping_and_come_back_equal(tmp_path: Path) -> None:
    info = VerificationInfo(torch="2.0", parts=("", "head"), scheme=(("*", "int8"), ("a", None)), extra={"mine": [1]})
    record = replace(RECORD, info=info)
    assert record.info.parts == record.info["parts"] == ("", "head")
    assert set(record.info) == {"torch", "parts", "scheme", "mine"}
    record.save(tmp_path / "verification.json")
    loaded = VerificationRecord.load(tmp_path / "verification.json")
    assert loaded == record
    assert loaded.info.scheme == (("*", "int8"), ("a", None))
    assert loaded.info.engine_version is None


def test_a_file_in_which_facts_were_any_dict_still_loads() -> None:
    """As version 0.1.0 wrote them: lists, and whatever else was there."""
    facts = {"torch": "2.1", "engine_version": "1", "parts": [""], "exporters": ["dynamo"], "scheme": [["*", "int8"]]}
    plain = RECORD.to_json() | {"info": facts | {"not_exported": [], "machine": "mine"}}
    info = VerificationRecord.from_json(json.loads(json.dumps(plain))).info
    assert (info.exporters, info.not_exported, info["machine"]) == (("dynamo",), (), "mine")
    del plain["info"]
    assert not VerificationRecord.from_json(plain).info


def test_facts_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(StudyError, match=r"info=.*give a VerificationInfo, or a mapping of names to facts"):
        replace(RECORD, info="fast")  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"info: parts='head': give several in a list"):
        VerificationRecord.from_json(RECORD.to_json() | {"info": {"parts": "head"}})
