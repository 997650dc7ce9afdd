"""Every engine passes the suite that we ship, on a graph whose results the hooks of ``perturb`` give."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Engine
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.errors import EngineBuildError, EngineError, MissingPackageError
from sensitivity.testing.engines import EngineSuite, GraphCase
from tests.deploy.nets import SAFE, SAFE_INT8, has_amx, images


@pytest.fixture(scope="module", params=["openvino", "onnxruntime", "onnxruntime-int8", "torch"])
def deployed_to(shared: sv.Wrapped, request: pytest.FixtureRequest) -> Deployed:
    return shared.deploy(SAFE, request.param)


@pytest.fixture(scope="module")
def graph_case(deployed_to: Deployed) -> GraphCase:
    x = images(1, seed=5)
    with deployed_to.plan.simulated() as model, torch.no_grad():
        out: Any = model(x)
    outputs = (*out["scores"], out["up"][0])
    nodes = {"fine.0", "coarse.0", "tower#0", "tower#1", "score#0", "score#1", "up"}
    return GraphCase((x.numpy(),), tuple(output.numpy() for output in outputs), frozenset(nodes), tolerance=1e-5)


@pytest.fixture(scope="module")
def engine(deployed_to: Deployed) -> Engine:
    return deployed_to.engine


class TestEngines(EngineSuite):
    """All of the suite on all four."""


@pytest.fixture(scope="module")
def deployed(shared: sv.Wrapped) -> Deployed:
    return shared.deploy(SAFE)


def test_openvino_says_what_ran_in_int8_and_how_long_it_took(deployed: Deployed) -> None:
    deployed(images(1))
    layers = {node: layer for layer in deployed.engine.layer_info() for node in layer.nodes}
    assert {layers[node].precision for node in ("fine.0", "coarse.0", "tower#0", "tower#1", "score#1")} == {"int8"}
    assert (layers["fine.0"].time_s or 0.0) > 0.0


@pytest.mark.skipif(not openvino.__version__.startswith("2026.4"), reason="a fact about OpenVINO 2026.4")
def test_openvino_runs_a_transposed_convolution_in_float_where_it_shares_its_input(deployed: Deployed) -> None:
    """A fact about OpenVINO 2026.4 that nothing but its execution graph tells; with AMX it runs in int8."""
    layers = {node: layer.precision for layer in deployed.engine.layer_info() for node in layer.nodes}
    assert layers["up"] == ("int8" if has_amx() else "fp32")


def test_a_copy_for_profiling_that_openvino_cannot_compile_is_told(
    shared: sv.Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise RuntimeError("Exception from src/inference/src/cpp/core.cpp:117:\nstd::bad_alloc")

    engine = shared.deploy(sv.Scheme()).engine
    assert isinstance(engine, OpenVinoEngine)
    monkeypatch.setattr(engine, "_core", SimpleNamespace(compile_model=no_memory))
    with pytest.raises(EngineBuildError, match=r"cannot build this graph: std::bad_alloc"):
        engine.profile(images(1).numpy())


def test_openvino_runs_all_in_float_where_nothing_is_quantized(shared: sv.Wrapped) -> None:
    engine = shared.deploy(sv.Scheme()).engine
    engine.run(images(1).numpy())
    assert {layer.precision for layer in engine.layer_info()} == {"fp32"}, "the hint f32 is not honoured"


class Scaled(nn.Module):
    """Two convolutions, the first multiplied, shifted or normalized by constants, as forward passes do it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.first, self.second = how, nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.gamma = nn.Parameter(torch.rand(16, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(16, 1, 1))
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        out = self.first(x)
        scaled = {
            "layer scale": lambda: out * self.gamma,
            "half": lambda: F.relu(out * 0.5),
            "eighth": lambda: out / 8,
            "frozen norm": lambda: F.relu(out * self.gamma + self.shift),
            "shifted": lambda: 3 - out,
            "norm used elsewhere": lambda: F.relu(self.norm(out)) + self.norm(out.flip(-1)),
        }
        return self.second(scaled[self.how]()) * 2


@pytest.mark.parametrize(
    "how", ["layer scale", "half", "eighth", "frozen norm", "shifted", "norm used elsewhere"], ids=str
)
def test_openvino_names_a_layer_whose_output_is_multiplied_by_a_constant(how: str) -> None:
    wrapped = sv.wrap(Scaled(how).eval(), images(1))
    wrapped.calibrate([images(4, seed=1)])
    deployed = wrapped.deploy(SAFE)
    layers = {node: layer.precision for layer in deployed.engine.layer_info() for node in layer.nodes}
    assert (layers.get("first"), layers.get("second")) == ("int8", "int8")


class Tokens(nn.Module):
    """Linear layers as in a transformer: reduced without a bias, normed, expanded, activated, added to what was."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LayerNorm(32)
        self.reduction = nn.Linear(32, 16, bias=False)
        self.norm = nn.LayerNorm(16)
        self.fc1, self.fc2 = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduction(self.first(x))
        return reduced + self.fc2(F.gelu(self.fc1(self.norm(reduced))))


def test_openvino_names_a_linear_layer_whose_own_name_it_gave_up() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 8, 32)
    wrapped = sv.wrap(Tokens().eval(), tokens)
    wrapped.calibrate([tokens], SAFE_INT8)
    deployed = wrapped.deploy(SAFE)
    layers = {node: layer.precision for layer in deployed.engine.layer_info() for node in layer.nodes}
    names = [layer.module for layer in wrapped.layers]
    assert {name: layers.get(name) for name in names} == dict.fromkeys(names, "int8")


class Same(nn.Module):
    """A layer called twice on one tensor: OpenVINO runs it once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) + torch.sigmoid(self.conv(x))


def test_two_calls_that_openvino_runs_as_one_are_both_named() -> None:
    wrapped = sv.wrap(Same().eval(), images(1))
    wrapped.calibrate([images(4, seed=1)])
    engine = wrapped.deploy(SAFE).engine
    layers = {node: layer.precision for layer in engine.layer_info() for node in layer.nodes}
    assert (layers["conv#0"], layers["conv#1"]) == ("int8", "int8")


@pytest.mark.parametrize(
    ("recipe", "precision", "least_db"), [(sv.INT8_WEIGHTS, "fp32", 100.0), (SAFE_INT8, "int8", 40.0)], ids=str
)
def test_openvino_quantizes_activations_of_linear_layers_only_where_asked(
    recipe: sv.Recipe, precision: str, least_db: float
) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 64, 256)
    net = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256), nn.LayerNorm(256), nn.Linear(256, 64))
    wrapped = sv.wrap(net.eval(), tokens)
    wrapped.calibrate([tokens])
    deployed = wrapped.deploy(sv.Scheme.all(recipe))
    with deployed.plan.simulated() as model:
        assert sqnr_db(model(tokens), deployed(tokens)) > least_db
    nodes = [node for names in deployed.parts[0].qdq.nodes.values() for node in names]
    layers = {node: layer.precision for layer in deployed.engine.layer_info() for node in layer.nodes}
    assert {node: layers.get(node) for node in nodes} == dict.fromkeys(nodes, precision)


def test_onnxruntime_and_the_simulation_do_not_claim_int8(shared: sv.Wrapped) -> None:
    for name in ("onnxruntime", "torch"):
        engine = shared.deploy(SAFE, name).engine
        layers = {node: layer.precision for layer in engine.layer_info() for node in layer.nodes}
        assert layers["fine.0"] == "fp32"


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "onnxruntime-int8"])
def test_one_thread_is_a_setting_that_keeps_the_result(shared: sv.Wrapped, name: str) -> None:
    x = images(1, seed=5).numpy()
    single, some = (shared.deploy(sv.Scheme(), name, **settings).engine.run(x) for settings in ({"threads": 1}, {}))
    for a, b in zip(single, some, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("name", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_missing_package_names_the_extra(
    shared: sv.Wrapped, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=rf"'{name}'.*pip install -e '\.\[{extra}\]'"):
        shared.deploy(sv.Scheme(), name)


def test_a_missing_exporter_names_the_extra(shared: sv.Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingPackageError, match=r"'onnxscript'.*pip install -e '\.\[onnx\]'"):
        shared.deploy(sv.Scheme(), "torch")


@pytest.mark.parametrize("make", [OpenVinoEngine, OrtEngine])
def test_what_is_no_graph_is_refused(make: type) -> None:
    with pytest.raises(EngineBuildError, match="cannot build this graph"):
        make(b"no graph")


def test_what_openvino_says_of_a_graph_that_it_cannot_build_is_told() -> None:
    class Determinant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.linalg.det(x[..., :4, :4])[..., None, None]

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Determinant()).eval()
    with pytest.raises(EngineBuildError, match=r"cannot build this graph: .*Det") as caught:
        sv.wrap(net, images(1)).deploy(sv.Scheme())
    assert ".cpp" not in str(caught.value)


def test_an_unknown_engine_is_refused_before_anything_is_done(shared: sv.Wrapped) -> None:
    with pytest.raises(EngineError, match=r"no engine is called 'opnvino'. Choose one of openvino, onnxruntime"):
        shared.deploy(sv.Scheme(), "opnvino")


def test_an_engine_of_ones_own_is_built_from_the_bytes_of_the_graph(shared: sv.Wrapped) -> None:
    class Mine(OrtEngine):
        name = "mine"

    assert shared.deploy(sv.Scheme(), Mine).name == "mine"
