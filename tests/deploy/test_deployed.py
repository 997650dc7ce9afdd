"""A deployed model is called like the model, also where only a part of it runs on an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Task
from sensitivity.demo.run import WEIGHTS
from sensitivity.demo.scenes import CALIBRATION_SEED, HELD_OUT_SEED, draw_scene, write_scenes
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.deploy.verify.verify import verify
from sensitivity.errors import CalibrationError, EngineError, ExportError, LayerNotFoundError
from sensitivity.zoo.efficientvit_sam import EfficientViTSam, load
from tests.deploy.nets import SAFE, SAFE_INT8, images


def test_the_output_has_the_models_own_structure(shared: sv.Wrapped) -> None:
    x = images(1, seed=2)
    out = shared.deploy(sv.Scheme())(x)
    with torch.no_grad():
        want: Any = shared.model(x)
    assert list(out) == ["scores", "up", "none"]
    assert isinstance(out["scores"], list)
    assert out["up"][1] == "text"
    assert out["none"] is None
    torch.testing.assert_close(out["up"][0], want["up"][0], atol=1e-5, rtol=1e-4)
    for have, expected in zip(out["scores"], want["scores"], strict=True):
        torch.testing.assert_close(have, expected, atol=1e-5, rtol=1e-4)


def test_a_batch_of_any_size_gives_what_single_images_give(shared: sv.Wrapped) -> None:
    deployed, x = shared.deploy(SAFE), images(3, seed=2)
    singly = [deployed(x[i : i + 1])["scores"][0] for i in range(3)]
    assert torch.equal(deployed(x)["scores"][0], torch.cat(singly))


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


def test_the_callers_model_is_left_alone(shared: sv.Wrapped) -> None:
    before = {name: value.clone() for name, value in shared.model.state_dict().items()}
    training = shared.model.training
    shared.deploy(SAFE)(images(1))
    assert shared.model.training == training
    assert all(torch.equal(value, before[name]) for name, value in shared.model.state_dict().items())
    assert not [m for m in shared.model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_one_export_serves_all_schemes_until_the_weights_change(shared: sv.Wrapped) -> None:
    one, two = (shared.deploy(scheme, "torch") for scheme in (sv.Scheme(), SAFE))
    assert one.parts[0].part is two.parts[0].part
    model: Any = shared.model
    before = model.score.bias.detach().clone()
    with torch.no_grad():
        model.score.bias.add_(1.0)
        try:
            x = images(1)
            torch.testing.assert_close(shared.deploy(sv.Scheme())(x)["scores"][0], model(x)["scores"][0])
        finally:
            model.score.bias.copy_(before)  # to the last bit: the fixture's calibration is checked against it


def test_another_size_is_refused_and_can_be_deployed_for(shared: sv.Wrapped) -> None:
    deployed = shared.deploy(sv.Scheme())
    with pytest.raises(EngineError, match=r"has shape \(1, 3, 64, 64\), it was given \(1, 3, 32, 32\)"):
        deployed(images(1, side=32))
    small = shared.deploy(sv.Scheme(), example=images(1, side=32))
    assert small(images(1, side=32))["scores"][0].shape == (1, 5, 16, 16)


def test_arguments_of_another_form_are_refused(shared: sv.Wrapped) -> None:
    with pytest.raises(EngineError, match="SharedHead was exported for arguments of the form"):
        shared.deploy(sv.Scheme())(x=images(1))


def test_what_cannot_be_deployed_says_so(shared: sv.Wrapped) -> None:
    with pytest.raises(LayerNotFoundError, match="nowhere"):
        shared.deploy(sv.Scheme.only("nowhere", SAFE_INT8))
    fresh = sv.wrap(shared.model, images(1))
    with pytest.raises(CalibrationError, match="no calibration is at hand"):
        fresh.deploy(SAFE)


class Several(nn.Module):
    """A backbone, a head that no exporter can write, and a method of its own."""

    anchors = 3

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.pick = Picky()

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(self.backbone(x))

    def encode(self, x: Tensor) -> Tensor:
        return self.backbone(x) * 2


class Picky(nn.Module):
    """Uses an operator that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + torch.special.bessel_j0(x))


@pytest.fixture(scope="module")
def several() -> sv.Wrapped:
    torch.manual_seed(0)
    made = sv.wrap(Several().eval(), images(1))
    made.calibrate([images(4, seed=1)])
    return made


def test_what_cannot_be_exported_is_simulated_only_with_its_reasons(several: sv.Wrapped) -> None:
    deployed = several.deploy(SAFE)
    failed = [attempt for attempt in deployed.attempts if attempt.part == ""]
    assert {attempt.exporter for attempt in failed} == {"dynamo", "legacy", "none"}
    assert {one.path for one in deployed.parts} == {"backbone", "pick.last"}, "what is around the operator is exported"
    assert all(attempt.reason for attempt in deployed.attempts)
    x = images(2, seed=3)
    with deployed.plan.simulated() as model:
        assert sqnr_db(model(x), deployed(x)) > 35.0
    assert "not exported: the whole model" in repr(deployed)


def test_only_the_named_part_runs_on_the_engine(several: sv.Wrapped) -> None:
    deployed = several.deploy(SAFE, parts=["backbone"])
    assert [one.path for one in deployed.parts] == ["backbone"]
    last = several.layers["pick.last"].name
    assert list(deployed.plan.left_out) == [last]
    assert "simulated only" in deployed.plan.left_out[last]
    assert f"left in float: {last}: simulated only" in repr(deployed)


def test_methods_and_attributes_of_the_model_use_the_engine_too(several: sv.Wrapped) -> None:
    deployed, x = several.deploy(SAFE, parts=["backbone"]), images(1, seed=3)
    with deployed.plan.simulated() as model:
        want = model.encode(x)  # type: ignore[operator]
    torch.testing.assert_close(deployed.encode(x), want, atol=0.02, rtol=0)
    with torch.no_grad():
        assert not torch.allclose(deployed.encode(x), several.model.encode(x), atol=1e-5)  # type: ignore[operator]
    assert deployed.anchors == 3


def test_a_wholly_exported_model_has_no_methods_that_would_run_in_float(shared: sv.Wrapped) -> None:
    deployed = shared.deploy(sv.Scheme())
    assert deployed.training is False
    with pytest.raises(AttributeError, match=r"knows its forward\(\) alone, not 'fine'. Deploy the submodules"):
        _ = deployed.fine
    with pytest.raises(AttributeError, match="no attribute 'named_layers'"):
        _ = deployed.named_layers


def test_a_method_of_a_wholly_exported_model_is_refused(several: sv.Wrapped) -> None:
    deployed = several.deploy(sv.Scheme(), "torch", parts=["backbone"])
    with pytest.raises(AttributeError, match=r"backbone runs on an engine, .* not 'append'. Deploy the submodules"):
        _ = deployed.backbone.append


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["bakbone"], r"names 'bakbone', which is no submodule. At the top there are: backbone, pick"),
        (["backbone", "backbone.0"], "'backbone.0' lies inside 'backbone'"),
        ([], "it is empty or names a part twice"),
        (["pick"], r"nothing of Several could be exported"),
    ],
)
def test_parts_that_make_no_sense_are_refused(several: sv.Wrapped, parts: list[str], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        several.deploy(sv.Scheme(), parts=parts)


class Aliased(nn.Module):
    """Holds a block, and the block that holds it, under two names; runs the second."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.same = self.body
        self.head = nn.Conv2d(8, 4, 1)
        self.last = self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.same(x))


@pytest.mark.parametrize("parts", [["body"], ["body.0"], ["body.0", "head"], ["same"], ["same.0", "last"]], ids=str)
def test_a_part_runs_on_the_engine_under_all_its_names(parts: list[str]) -> None:
    torch.manual_seed(0)
    net = Aliased().eval()
    wrapped, x = sv.wrap(net, images(1)), images(2, seed=3)
    wrapped.calibrate([images(4, seed=1)])
    deployed = wrapped.deploy(sv.Scheme.only("body.0", SAFE_INT8), parts=parts)
    with deployed.plan.simulated() as model:
        torch.testing.assert_close(deployed(x), model(x), atol=0.02, rtol=0)
    with torch.no_grad():
        assert float((deployed(x) - net(x)).abs().max()) > 1e-4, "it runs in float"


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


def test_the_simulation_has_no_settings(several: sv.Wrapped) -> None:
    with pytest.raises(EngineError, match="'torch', the simulation, has no settings; it was given nonsense"):
        several.deploy(sv.Scheme(), "torch", nonsense=1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + self.head(x[..., ::2, ::2]).sum()


def test_a_part_that_runs_twice_is_no_part() -> None:
    with pytest.raises(ExportError, match="runs 2 times in the example pass"):
        sv.wrap(Twice().eval(), images(1)).deploy(sv.Scheme(), parts=["head"])


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
    found: dict[int, Any] = {}
    with torch.no_grad():
        for batch in task.batches():
            found.update(zip(batch.images, task.predict(model, batch), strict=True))
    return found


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
    found = sv.Verification.of(verify(deployed_sam, task, samples=1))
    inside = {check.status for check in found.layers if check.module.startswith("image_encoder")}
    outside = {check.status for check in found.layers if not check.module.startswith("image_encoder")}
    assert (inside, outside) == ({"verified"}, {"in float"})
    assert found.images == 2
    assert 0.5 < (found.metric_deployed or 0.0) < 1.0
    assert found.metric_variants["channels last"] != found.metric_fp32


def test_a_function_that_makes_an_engine_is_given_the_graphs_of_the_model_alone() -> None:
    torch.manual_seed(0)
    x, graphs = torch.randn(1, 3, 12, 12), []

    def make(graph: bytes) -> OrtEngine:
        graphs.append(graph)
        return OrtEngine(graph)

    net = sv.wrap(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), x)
    net.deploy(sv.Scheme.all(sv.INT8), make, calibration=x)  # weights in 8 bits, which could saturate
    assert len(graphs) == 1
