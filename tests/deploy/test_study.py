"""Rows of a study, measured again on an engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import sensitivity as sv
from sensitivity.deploy.openvino_engine import OpenVinoEngine
from sensitivity.errors import StudyError
from tests.deploy.nets import SharedHead, build, images


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
    return net.analyze(task, sv.INT8, progress=False)


def test_rows_that_the_engine_repeats_become_verified(
    net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity
) -> None:
    found = net.verify_study(study, task, layers=["fine.0", "tower"])
    rows = {row.layer: row for row in found.measurements}
    fine, tower = (rows[net.layers[path].name] for path in ("fine.0", "tower"))
    assert (fine.status, tower.status) == ("verified", "verified")
    assert fine.drop is not None
    assert fine.signals["deployed_drop"] == pytest.approx(fine.drop, abs=0.1)
    assert fine.signals["deployed_score"] != task
    assert [row.status for row in found.measurements].count("measured") == 3
    assert found.measurements[0].score == study.measurements[0].score
    assert isinstance(found, sv.Study)
    assert "verified" in set(found.table()["status"])


def test_a_study_of_all_but_one_is_repeated_that_way(net: sv.Wrapped, task: sv.FeatureFidelity) -> None:
    study = net.analyze(task, sv.INT8, layers="score", direction="all-but-one", progress=False)
    row = net.verify_study(study, task, layers="score").measurements[0]
    assert row.drop is not None
    assert row.signals["deployed_drop"] == pytest.approx(row.drop, rel=0.05)
    assert row.status == "verified"


class Off(OpenVinoEngine):
    name = "off"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(np.asarray(out) * 1.5 for out in super().run(*inputs))


def test_another_drop_on_the_engine_is_told_and_not_verified(
    net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity
) -> None:
    row = net.verify_study(study, task, layers="fine.0", engine=Off).measurements[0]
    assert row.status == "measured"
    assert "the engine drops" in row.reason
    assert row.signals["deployed_drop"] > (row.drop or 0.0)


def test_another_precision_is_told_and_not_verified(net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity) -> None:
    row = net.verify_study(study, task, layers="fine.0", engine="onnxruntime").measurements[0]
    assert (row.status, row.reason) == ("measured", "planned in int8, the engine ran fp32")


def test_wider_gates_verify_more(net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity) -> None:
    gates = sv.Gates(metric_points=1000.0)
    assert net.verify_study(study, task, layers="fine.0", engine=Off, gates=gates).measurements[0].status == "verified"


def test_another_task_or_model_is_refused(net: sv.Wrapped, study: sv.Study, task: sv.FeatureFidelity) -> None:
    with pytest.raises(StudyError, match="on 4 images, this task has sqnr_db on 2"):
        net.verify_study(study, sv.FeatureFidelity(list(images(2))))
    with pytest.raises(StudyError, match="whose layers are not those of"):
        net.verify_study(replace(study, layers=study.layers[1:]), task)
