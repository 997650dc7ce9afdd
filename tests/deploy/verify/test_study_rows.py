"""Rows of a study, measured again on an engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import sensitivity as sv
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.errors import StudyError
from tests.deploy.nets import SAFE_INT8, SharedHead, build, images


@pytest.fixture(scope="module")
def net() -> sv.Wrapped:
    made = sv.wrap(build(SharedHead), images(1))
    made.calibrate([images(8, seed=1)])
    return made


@pytest.fixture(scope="module")
def task() -> sv.FeatureFidelity:
    return sv.FeatureFidelity(list(images(4, seed=3)))


@pytest.fixture(scope="module")
def study(net: sv.Wrapped, task: sv.FeatureFidelity) -> sv.Study:
    return net.analyze(task, SAFE_INT8, progress=False)


def test_a_study_of_other_weights_is_refused(task: sv.FeatureFidelity) -> None:
    made = sv.wrap(build(SharedHead), images(1))
    study = made.analyze(task, sv.INT8_WEIGHTS, progress=False)
    with torch.no_grad():
        next(made.model.parameters()).mul_(1.01)
    with pytest.raises(StudyError, match=r"made with other weights or buffers .* analyze the model as it is"):
        made.verify_study(study, task)


def test_rows_that_the_engine_repeats_become_verified(
    net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity
) -> None:
    verified = net.verify_study(study, task, layers=["fine.0", "tower"])
    rows = {row.layer: row for row in verified.measurements}
    fine, tower = (rows[net.layers[path].name] for path in ("fine.0", "tower"))
    assert (fine.status, tower.status) == ("verified", "verified")
    assert fine.drop is not None
    assert fine.signals["deployed_drop"] == pytest.approx(fine.drop, abs=0.1)
    assert fine.signals["deployed_score"] == pytest.approx(150.0 - fine.signals["deployed_drop"])
    assert fine.signals["deployed_score"] != fine.score  # measured, not copied
    assert [row.status for row in verified.measurements].count("measured") == 3
    assert verified.measurements[0].score == study.measurements[0].score
    assert isinstance(verified, sv.Study)
    assert "verified" in set(verified.table()["status"])


def test_a_study_of_all_but_one_is_repeated_that_way(net: sv.Wrapped, task: sv.FeatureFidelity) -> None:
    swept = ["fine.0", "tower", "score"]
    study = net.analyze(task, SAFE_INT8, layers=swept, direction="all-but-one", progress=False)
    verified = net.verify_study(study, task, layers="score")
    row = next(measurement for measurement in verified.measurements if measurement.layer == net.layers["score"].name)
    assert row.drop is not None
    assert row.signals["deployed_drop"] == pytest.approx(row.drop, abs=0.5)
    assert row.status == "verified"
    others = sv.Scheme.only(["fine.0", "tower"], SAFE_INT8)  # the rest of the model was never perturbed
    assert net.evaluate(task, others).value == pytest.approx(row.score, abs=1e-3)


class Off(OpenVinoEngine):
    name = "off"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(np.asarray(out) * 1.5 for out in super().run(*inputs))


@pytest.mark.filterwarnings("ignore::sensitivity.errors.DisagreementWarning")  # that is what is tested
def test_another_drop_on_the_engine_is_told_and_not_verified(
    net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity
) -> None:
    row = net.verify_study(study, task, layers="fine.0", engine=Off).measurements[0]
    assert row.status == "measured"
    assert "the engine drops" in row.engine_reason
    assert row.signals["deployed_drop"] > (row.drop or 0.0)


def test_another_precision_is_told_and_not_verified(net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity) -> None:
    row = net.verify_study(study, task, layers="fine.0", engine="onnxruntime").measurements[0]
    assert (row.status, row.engine_reason) == ("measured", "planned in int8, the engine ran fp32")


@pytest.mark.filterwarnings("ignore::sensitivity.errors.DisagreementWarning")  # that is what is tested
def test_what_the_last_engine_showed_takes_the_place_of_what_others_did(
    net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity
) -> None:
    noted = replace(
        study, measurements=tuple(replace(row, reason="a remark of the sweep") for row in study.measurements)
    )
    runs = [("onnxruntime", "measured"), ("openvino", "verified"), (Off, "measured"), ("onnxruntime", "measured")]
    for engine, status in runs:
        noted = net.verify_study(noted, task, layers="fine.0", engine=engine)
        row = noted.measurements[0]
        assert (row.status, row.reason, bool(row.engine_reason)) == (
            status,
            "a remark of the sweep",
            status == "measured",
        )
    assert row.remarks == "a remark of the sweep; planned in int8, the engine ran fp32"
    assert noted.table()["reason"][0] == row.remarks


@pytest.mark.filterwarnings("ignore::sensitivity.errors.DisagreementWarning")  # that is what is tested
def test_wider_gates_verify_more(net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity) -> None:
    gates = sv.Gates(single_layer_db=1000.0)
    assert net.verify_study(study, task, layers="fine.0", engine=Off, gates=gates).measurements[0].status == "verified"


class Quiet(OpenVinoEngine):
    """Adds noise that costs a single layer a few decibels, far less than a tenth of its drop from 150 dB."""

    name = "quiet"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        random = np.random.default_rng(0)
        return tuple(
            out + 0.01 * out.std() * random.standard_normal(out.shape).astype(np.float32)
            for out in super().run(*inputs)
        )


def test_a_few_decibels_are_no_agreement(net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity) -> None:
    row = net.verify_study(study, task, layers="fine.0", engine=Quiet).measurements[0]
    assert row.drop is not None
    assert 0.2 < row.signals["deployed_drop"] - row.drop < 10.0
    assert row.status == "measured"
    assert "(0.100 may differ)" in row.engine_reason


@pytest.fixture(scope="module")
def mixed(net: sv.Wrapped, task: sv.FeatureFidelity) -> sv.Study:
    """A study with a recipe that no engine here can be given."""
    net.calibrate([images(8, seed=1)], sv.FP8)
    return net.analyze(task, [sv.FP8, SAFE_INT8], layers=["fine.0", "tower"], progress=False)


def test_a_row_that_cannot_be_deployed_says_why_and_the_others_go_on(
    net: sv.Wrapped, mixed: sv.Study, task: sv.FeatureFidelity
) -> None:
    verified = net.verify_study(mixed, task)
    rows = {(row.layer, row.recipe): row for row in verified.measurements}
    assert {recipe: row.status for (_, recipe), row in rows.items()} == {"fp8": "measured", SAFE_INT8.name: "verified"}
    reason = rows[net.layers["tower"].name, "fp8"].engine_reason
    assert reason.startswith("not on the engine: recipe 'fp8'")
    again = net.verify_study(verified, task, recipe="fp8")
    assert {row.engine_reason for row in again.measurements if row.layer == net.layers["tower"].name} == {reason, ""}


def test_rows_of_one_recipe_can_be_chosen(net: sv.Wrapped, mixed: sv.Study, task: sv.FeatureFidelity) -> None:
    verified = net.verify_study(mixed, task, layers="tower", recipe=SAFE_INT8)
    touched = {row.recipe for row, old in zip(verified.measurements, mixed.measurements, strict=True) if row != old}
    assert touched == {SAFE_INT8.name}
    with pytest.raises(StudyError, match=r"no recipe 'int3'\. It has fp8, safe int8"):
        net.verify_study(mixed, task, recipe="int3")


def test_a_row_that_was_stopped_early_is_not_run(net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity) -> None:
    first = replace(study.measurements[0], images=2, status="decided")
    stopped = replace(study, measurements=(first, *study.measurements[1:]))

    def never(model: bytes) -> OpenVinoEngine:
        raise AssertionError("nothing is to be run")

    row = net.verify_study(stopped, task, layers=first.layer, engine=never).measurements[0]
    assert row.status == "decided"
    assert "measured on 2 of 4 images" in row.engine_reason
    assert "deployed_score" not in row.signals


def test_another_task_or_model_is_refused(net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity) -> None:
    with pytest.raises(StudyError, match="on 4 images, this task has sqnr_db on 2"):
        net.verify_study(study, sv.FeatureFidelity(list(images(2))))
    with pytest.raises(StudyError, match="whose layers are not those of"):
        net.verify_study(replace(study, layers=study.layers[1:]), task)
