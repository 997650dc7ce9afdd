"""What deploying refuses, what it leaves to the simulation, and what an engine is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.errors import CalibrationError, EngineError, ExportError, LayerNotFoundError
from tests.deploy.nets import SAFE, SAFE_INT8, images


def test_one_export_serves_all_schemes_until_the_weights_change(shared: sv.Wrapped) -> None:
    first, two = (shared.deploy(scheme, "torch") for scheme in (sv.Scheme(), SAFE))
    assert first.parts[0].part is two.parts[0].part
    model: Any = shared.model
    before = model.score.bias.detach().clone()
    with torch.no_grad():
        model.score.bias.add_(1.0)
        try:
            x = images(1)
            torch.testing.assert_close(shared.deploy(sv.Scheme())(x)["scores"][0], model(x)["scores"][0])
        finally:
            model.score.bias.copy_(before)  # to the last bit: the fixture's calibration is checked against it


def test_what_cannot_be_deployed_says_so(shared: sv.Wrapped) -> None:
    with pytest.raises(LayerNotFoundError, match="nowhere"):
        shared.deploy(sv.Scheme.only("nowhere", SAFE_INT8))
    fresh = sv.wrap(shared.model, images(1))
    with pytest.raises(CalibrationError, match="no calibration is at hand"):
        fresh.deploy(SAFE)


def test_what_cannot_be_exported_is_simulated_only_with_its_reasons(several: sv.Wrapped) -> None:
    deployed = several.deploy(SAFE)
    failed = [attempt for attempt in deployed.attempts if attempt.part == ""]
    assert {attempt.exporter for attempt in failed} == {"dynamo", "legacy", "none"}
    assert {part.path for part in deployed.parts} == {"backbone", "pick.last"}, (
        "what is around the operator is exported"
    )
    assert all(attempt.reason for attempt in deployed.attempts)
    x = images(2, seed=3)
    with deployed.plan.simulated() as model:
        assert sqnr_db(model(x), deployed(x)) > 35.0
    assert "not exported: the whole model" in repr(deployed)


def test_only_the_named_part_runs_on_the_engine(several: sv.Wrapped) -> None:
    deployed = several.deploy(SAFE, parts=["backbone"])
    assert [part.path for part in deployed.parts] == ["backbone"]
    last = several.layers["pick.last"].name
    assert list(deployed.plan.left_out) == [last]
    assert "simulated only" in deployed.plan.left_out[last]
    assert f"left in float: {last}: simulated only" in repr(deployed)


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


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "onnxruntime-int8"])
def test_a_setting_that_an_engine_does_not_have_is_refused_by_its_name(several: sv.Wrapped, engine: str) -> None:
    with pytest.raises(EngineError, match=f"'{engine}' has no setting 'refit'. It has threads."):
        several.deploy(SAFE, engine, refit=True)


def test_a_setting_of_a_function_that_makes_an_engine_is_handed_to_it(several: sv.Wrapped) -> None:
    def build(model: bytes, **settings: object) -> OrtEngine:
        assert settings == {"anything": 1}
        return OrtEngine(model)

    assert several.deploy(SAFE, build, anything=1).parts
    with pytest.raises(EngineError, match=r"has no setting 'anything'. It has none."):
        several.deploy(SAFE, lambda model: OrtEngine(model), anything=1)


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


def test_a_function_that_makes_an_engine_is_given_the_graphs_of_the_model_alone() -> None:
    torch.manual_seed(0)
    x, graphs = torch.randn(1, 3, 12, 12), []

    def make(graph: bytes) -> OrtEngine:
        graphs.append(graph)
        return OrtEngine(graph)

    net = sv.wrap(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), x)
    net.deploy(sv.Scheme.all(sv.INT8), make, calibration=x)  # weights in 8 bits, which could saturate
    assert len(graphs) == 1
