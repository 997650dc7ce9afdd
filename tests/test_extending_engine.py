"""An engine from outside the package: registered by name, it is deployed to, timed, verified and reported like ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.contracts import Engine, EngineCapabilities, EngineLayer
from sensitivity.deploy.doctor.machine import examine
from sensitivity.deploy.doctor.saturation import capabilities_here
from sensitivity.deploy.engines import registry
from sensitivity.deploy.engines.inputs import checked_inputs, median_time_s
from sensitivity.errors import EngineBuildError, EngineError, ExportError
from sensitivity.records import Layer
from sensitivity.testing.engines import EngineSuite, GraphCase

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Reference(Engine):
    """The reference evaluator of the package onnx, which computes each operator as the standard defines it."""

    name = "reference"
    version = onnx.__version__
    computes_in_float = True
    capabilities = EngineCapabilities(activation_formats=("int8",), affine_activations=False, saturates=False)

    def __init__(self, model: bytes) -> None:
        proto = onnx.load_from_string(model)
        proto.opset_import[0].version = 21  # the same operators; the evaluator's Q/DQ start at 19
        self._graph = proto.graph
        self._evaluator = ReferenceEvaluator(proto)
        ports = [port.type.tensor_type for port in self._graph.input]
        self._shapes = [[size.dim_value for size in port.shape.dim] for port in ports]
        self._types = [onnx.helper.tensor_dtype_to_np_dtype(port.elem_type) for port in ports]

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        arrays = checked_inputs(self.name, inputs, self._shapes, self._types)
        names = [port.name for port in self._graph.input]
        return tuple(np.array(out) for out in self._evaluator.run(None, dict(zip(names, arrays, strict=True))))

    def layer_info(self) -> list[EngineLayer]:
        return [EngineLayer(node.name, (node.name,), "fp32") for node in self._graph.node]

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        return median_time_s(lambda: self.run(*inputs), repeats)


class Least:
    """An engine with the least only: it inherits nothing, and says neither a version nor what it can run."""

    def __init__(self, model: bytes) -> None:
        self.name = "least"
        self._engine = Reference(model)
        self.run, self.layer_info, self.latency_s = (
            self._engine.run,
            self._engine.layer_info,
            self._engine.latency_s,
        )


def refuses_heads(layer: Layer) -> str | None:
    return "it has ten output channels" if layer.out_channels == 10 else None


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    sv.register_engine("reference", Reference, package="onnx", refuses_layer=refuses_heads)
    sv.register_engine("least", Least)


@pytest.fixture(scope="module")
def wrapped() -> sv.Wrapped:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(512, 10))
    made = sv.wrap(net.eval(), X, name="small")
    made.calibrate([X])
    return made


@pytest.fixture(scope="module")
def graph_case(wrapped: sv.Wrapped) -> GraphCase:
    with wrapped.quantized(sv.Scheme.all(sv.INT8)) as model, torch.no_grad():
        expected = model(X).numpy()
    return GraphCase((X.numpy(),), (expected,), frozenset({"0", "2", "4"}), tolerance=1e-5)


@pytest.fixture(scope="module", params=[Reference, Least])
def engine(wrapped: sv.Wrapped, request: pytest.FixtureRequest) -> Engine:
    return wrapped.deploy(sv.Scheme.all(sv.INT8), request.param).engine


class TestTheirEngines(EngineSuite):
    """Engines from outside pass the suite, also one that takes every default of the contract."""


@pytest.mark.usefixtures("_registered")
def test_an_engine_from_outside_is_swept_for_deployed_verified_and_reported(wrapped: sv.Wrapped) -> None:
    task = sv.FeatureFidelity(list(X))
    study = wrapped.analyze(task, sv.INT8, progress=False)
    deployed = wrapped.deploy(sv.Scheme.all(sv.INT8), "reference")
    assert deployed.name == "reference"
    assert list(deployed.plan.left_out.values()) == ["it has ten output channels"]
    found = wrapped.verify(deployed, task)
    assert found.passed
    assert [check.status for check in found.layers] == ["agrees in float", "agrees in float", "left in float"]
    assert found.info["engine_version"] == onnx.__version__
    assert "small on reference: as simulated" in repr(found)
    assert "reference" in found.to_html()
    again = wrapped.verify_study(study, task, engine="reference")
    assert all("deployed_drop" in row.signals for row in again.measurements)


@pytest.mark.usefixtures("_registered")
def test_what_it_can_run_is_respected_and_told(wrapped: sv.Wrapped) -> None:
    affine = sv.Recipe("affine", sv.INT8.weights, sv.QuantSpec("uint8", symmetric=False))
    with pytest.raises(ExportError, match="reference knows symmetric int8 with zero point 0 only"):
        wrapped.plan(sv.Scheme.all(affine), target="reference")
    with pytest.raises(ExportError, match=r"rest='bf16' cannot be exported for reference: .* 'openvino' or 'torch'"):
        wrapped.deploy(sv.Scheme().with_rest("bf16"), "reference")
    assert capabilities_here("reference").saturates is False
    assert capabilities_here("least").saturates is False, "it says nothing, and a trial tells"


@pytest.mark.usefixtures("_registered")
def test_the_doctor_tries_it_and_the_command_line_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    (finding,) = [one for one in examine() if one.name == "reference"]
    assert finding.works
    assert finding.version == onnx.__version__
    assert finding.note == "runs int8 layers in fp32, sums exact (checked on one convolution)"
    assert main(["doctor", "reference"]) == 0
    assert "works  reference" in capsys.readouterr().out


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reference", "'reference' is registered already"),
        ("openvino", "'openvino' is registered already"),
        ("Mine", "cannot be called 'Mine': give a name in lower case"),
        ("", "cannot be called ''"),
        ("any", "cannot be called 'any'"),
    ],
)
def test_a_name_that_is_taken_or_no_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        sv.register_engine(name, Reference)


def test_what_is_no_engine_is_refused_by_name(wrapped: sv.Wrapped) -> None:
    def forgetful(model: bytes) -> Any:
        return object()

    with pytest.raises(EngineBuildError, match="object is no engine: it has no name, run, layer_info, latency_s"):
        wrapped.deploy(sv.Scheme(), forgetful)


def test_the_engines_of_the_library_say_the_same_in_the_registry_and_when_built(wrapped: sv.Wrapped) -> None:
    for name in ("openvino", "onnxruntime", "torch"):
        kind = registry.kind_of(name)
        engine = wrapped.deploy(sv.Scheme(), name).engine
        assert (engine.name, engine.capabilities, engine.is_simulation) == (
            name,
            kind.capabilities,
            kind.is_simulation,
        )
        assert engine.version
