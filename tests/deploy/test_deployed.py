"""A deployed model is called like the model, also where only a part of it runs on an engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.contracts import Task
from sensitivity.demo.run import WEIGHTS
from sensitivity.demo.scenes import CALIBRATION_SEED, HELD_OUT_SEED, draw_scene, write_scenes
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.deploy.verify.verify import verify
from sensitivity.errors import EngineError, MissingPackageError
from sensitivity.zoo.efficientvit_sam import EfficientViTSam, load
from tests.deploy.nets import SAFE, SAFE_INT8, images


def test_in_float_the_engine_computes_what_the_model_does(wrapped: sv.Wrapped) -> None:
    x = images(2, seed=2)
    with torch.no_grad():
        assert sqnr_db(wrapped.model(x), wrapped.deploy(sv.Scheme())(x)) > 100.0


def test_in_int8_it_is_far_nearer_to_the_simulation_than_the_simulation_to_float(wrapped: sv.Wrapped) -> None:
    x = images(4, seed=2)
    deployed = wrapped.deploy(SAFE)
    with deployed.plan.simulated() as model:
        simulated = model(x)
    with torch.no_grad():
        distance = sqnr_db(simulated, wrapped.model(x))
    assert sqnr_db(simulated, deployed(x)) > distance + 6.0


def test_every_layer_of_the_nets_runs_in_int8(wrapped: sv.Wrapped) -> None:
    deployed = wrapped.deploy(SAFE)
    ran = {node: layer.precision for layer in deployed.engine.layer_info() for node in layer.nodes}
    nodes = [node for names in deployed.parts[0].qdq.nodes.values() for node in names]
    assert len(nodes) == len(wrapped.layers)
    assert {node: ran[node] for node in nodes} == dict.fromkeys(nodes, "int8")


@pytest.mark.parametrize(("engine", "quantized"), [("openvino", 2), ("onnxruntime", 0)])
def test_it_tells_plan_and_engine_apart(engine: str, quantized: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 1)).eval()
    wrapped = sv.wrap(model, images(1), name="small")
    scheme = sv.Scheme.all(SAFE_INT8).protect("2")
    deployed = wrapped.deploy(scheme, engine, calibration=images(4))
    planned = f"Deployed(small on {engine}: the whole model; 2 of 3 layers planned to run quantized; "
    assert repr(deployed) == f"{planned}not verified yet)"
    verification = wrapped.verify(deployed)
    assert repr(deployed) == f"{planned}verify saw {quantized} of them do so)"
    assert deployed.verification == verification


def test_the_callers_model_is_left_alone(shared: sv.Wrapped) -> None:
    before = {name: value.clone() for name, value in shared.model.state_dict().items()}
    training = shared.model.training
    shared.deploy(SAFE)(images(1))
    assert shared.model.training == training
    assert all(torch.equal(value, before[name]) for name, value in shared.model.state_dict().items())
    assert not [m for m in shared.model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_every_layer_has_a_time_on_an_engine_that_tells_it(several: sv.Wrapped) -> None:
    seconds = several.deploy(sv.Scheme.all(sv.INT8), parts=["backbone"]).profile()
    assert set(seconds) == {several.layers[path].name for path in ("backbone.0", "backbone.2")}
    assert all(0.0 < time < 1.0 for time in seconds.values())
    with pytest.raises(EngineError, match=r"torch does not tell how long a layer takes. Measure on 'openvino'"):
        several.deploy(sv.Scheme(), "torch", parts=["backbone"]).profile()
    with pytest.raises(EngineError, match="repeats=0: it must be 1 or more"):
        several.deploy(sv.Scheme(), "torch", parts=["backbone"]).profile(repeats=0)


def test_an_engine_that_has_no_files_says_so(several: sv.Wrapped, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'torch' is the simulation: it runs the model, and no file holds it"):
        several.deploy(sv.Scheme(), "torch", parts=["backbone"]).save(tmp_path)
    with pytest.raises(EngineError, match=r"openvino keeps no engines in files: leave load= out. 'tensorrt'"):
        several.deploy(sv.Scheme(), parts=["backbone"], load=tmp_path)


# a SAM whose image encoder alone runs on the engine


@pytest.fixture(scope="module")
def sam() -> EfficientViTSam:
    return load("tiny", checkpoint=WEIGHTS)


@pytest.fixture(scope="module")
def deployed_sam(sam: EfficientViTSam) -> Deployed:
    boxes = torch.tensor([[[4.0, 4.0, 40.0, 40.0]]])
    scenes = [sam.preprocess(draw_scene(CALIBRATION_SEED, index)[0]) for index in range(4)]
    wrapped = sv.wrap(sam, (scenes[0], boxes))
    wrapped.calibrate([(scene, boxes) for scene in scenes])
    return wrapped.deploy(sv.Scheme.only("image_encoder", SAFE_INT8), parts=["image_encoder"])


def predictions(task: Task, model: Any) -> dict[int, Any]:
    predicted: dict[int, Any] = {}
    with torch.no_grad():
        for batch in task.batches():
            predicted.update(zip(batch.images, task.predict(model, batch), strict=True))
    return predicted


def test_a_task_that_prompts_a_sam_scores_the_deployed_one(
    sam: EfficientViTSam, deployed_sam: Deployed, tmp_path: Path
) -> None:
    task = sv.PromptedMasks(*write_scenes(tmp_path, 4, HELD_OUT_SEED))
    in_float = task.score(predictions(task, sam))["mIoU"]
    with deployed_sam.plan.simulated() as model:
        simulated = task.score(predictions(task, model))["mIoU"]
    deployed = task.score(predictions(task, deployed_sam))["mIoU"]
    assert in_float > 0.7
    assert abs(deployed - simulated) < 0.005
    assert deployed != in_float


def test_a_part_is_verified_with_the_inputs_that_the_task_gives_it(
    sam: EfficientViTSam, deployed_sam: Deployed, tmp_path: Path
) -> None:
    task = sv.PromptedMasks(*write_scenes(tmp_path, 2, HELD_OUT_SEED))
    verification = sv.Verification.of(verify(deployed_sam, task, samples=1))
    inside = {check.status for check in verification.layers if check.module.startswith("image_encoder")}
    outside = {check.status for check in verification.layers if not check.module.startswith("image_encoder")}
    assert (inside, outside) == ({"verified"}, {"in float"})
    assert verification.images == 2
    assert 0.5 < (verification.metric_deployed or 0.0) < 1.0
    assert verification.metric_variants["channels last"] != verification.metric_fp32


def test_where_several_packages_are_missing_the_extra_that_brings_all_of_them_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in ("openvino", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    wrapped = sv.wrap(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), torch.zeros(1, 3, 4, 4))
    with pytest.raises(MissingPackageError, match=r"pip install -e '\.\[openvino\]'"):
        wrapped.deploy(sv.Scheme(), "openvino")
