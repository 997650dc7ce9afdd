"""How a study was made, as fields, and as the mapping that it was before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.errors import StudyError
from sensitivity.records import StudyInfo
from sensitivity.records.results.latency import latency_of

OLD = Path(__file__).with_name("study_of_version_0_1_0.json")


def test_a_study_saved_before_info_had_fields_opens_with_all_of_them() -> None:
    study, plain = sv.Study.load(OLD), json.loads(OLD.read_text())["info"]
    assert study.info.seconds == plain["seconds"]
    assert study.info.weights == plain["weights"]
    assert study.info.torch == plain["torch"]
    assert study.info.calibration_images == 0
    assert study.info.intervals == plain["intervals"]
    assert study.info.extra == {"machine": "laptop"}
    latency = latency_of(study, "int4-weights")
    assert latency is not None
    assert (latency.engine, latency.quantized_s, latency.extra_s("layers:0:0")) == ("openvino", 0.001, 0.1)


def test_an_old_study_is_saved_as_it_was() -> None:
    assert sv.Study.load(OLD).to_json()["info"] == json.loads(OLD.read_text())["info"]


def test_a_fact_is_a_key_too_and_one_that_is_not_known_is_none_of_them() -> None:
    info = StudyInfo(weights="abc", extra={"machine": "laptop"})
    assert info["weights"] == info.weights == "abc"
    assert dict(info) == {"weights": "abc", "machine": "laptop"}
    assert info.get("seconds") is None
    with pytest.raises(KeyError, match="seconds"):
        info["seconds"]


def test_a_study_takes_facts_as_a_mapping() -> None:
    study = replace(sv.Study.load(OLD), info={"weights": "abc", "mine": 1})  # type: ignore[arg-type]
    assert study.info == StudyInfo(weights="abc", extra={"mine": 1})


@pytest.mark.parametrize("facts", [5, ["weights"], None])
def test_facts_that_are_no_mapping_are_refused(facts: object) -> None:
    with pytest.raises(StudyError, match=r"info=.*give a StudyInfo, or a mapping"):
        StudyInfo.of(facts)  # type: ignore[arg-type]


def test_times_that_lack_a_part_are_refused() -> None:
    with pytest.raises(StudyError, match=r"latency=.*no complete times"):
        StudyInfo.of({"latency": {"int8": {"engine": "openvino"}}})
