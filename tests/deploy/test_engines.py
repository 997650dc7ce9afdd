"""Every engine passes the suite that we ship, on a graph whose results the hooks of ``perturb`` give."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import openvino
import pytest
import torch

import sensitivity as sv
from sensitivity.contracts import Engine
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.openvino_engine import OpenVinoEngine
from sensitivity.deploy.ort_engine import OrtEngine
from sensitivity.errors import EngineBuildError, EngineError, MissingPackageError
from sensitivity.testing.engines import EngineSuite, GraphCase
from tests.deploy.nets import images


@pytest.fixture(scope="module")
def graph_case(shared: sv.Wrapped) -> GraphCase:
    x = images(1, seed=5)
    with shared.quantized(sv.Scheme.all(sv.INT8)) as model, torch.no_grad():
        out: Any = model(x)
    outputs = (*out["scores"], out["up"][0])
    nodes = {"fine.0", "coarse.0", "tower#0", "tower#1", "score#0", "score#1", "up"}
    return GraphCase((x.numpy(),), tuple(one.numpy() for one in outputs), frozenset(nodes), tolerance=1e-5)


@pytest.fixture(scope="module", params=["openvino", "onnxruntime", "torch"])
def engine(shared: sv.Wrapped, request: pytest.FixtureRequest) -> Engine:
    return shared.deploy(sv.Scheme.all(sv.INT8), request.param).engine


class TestEngines(EngineSuite):
    """All of the suite on all three."""


@pytest.fixture(scope="module")
def deployed(shared: sv.Wrapped) -> Deployed:
    return shared.deploy(sv.Scheme.all(sv.INT8))


def test_openvino_says_what_ran_in_int8_and_how_long_it_took(deployed: Deployed) -> None:
    deployed(images(1))
    layers = {node: layer for layer in deployed.engine.layer_info() for node in layer.nodes}
    assert {layers[node].precision for node in ("fine.0", "coarse.0", "tower#0", "tower#1", "score#1")} == {"int8"}
    assert (layers["fine.0"].time_s or 0.0) > 0.0


@pytest.mark.skipif(not openvino.__version__.startswith("2026.4"), reason="a fact about OpenVINO 2026.4")
def test_openvino_runs_a_transposed_convolution_in_float_where_it_shares_its_input(deployed: Deployed) -> None:
    """A fact about OpenVINO 2026.4 that nothing but its execution graph tells."""
    layers = {node: layer.precision for layer in deployed.engine.layer_info() for node in layer.nodes}
    assert layers["up"] == "fp32"


def test_openvino_runs_all_in_float_where_nothing_is_quantized(shared: sv.Wrapped) -> None:
    engine = shared.deploy(sv.Scheme()).engine
    engine.run(images(1).numpy())
    assert {layer.precision for layer in engine.layer_info()} == {"fp32"}, "the hint f32 is not honoured"


def test_onnxruntime_and_the_simulation_do_not_claim_int8(shared: sv.Wrapped) -> None:
    for name in ("onnxruntime", "torch"):
        engine = shared.deploy(sv.Scheme.all(sv.INT8), name).engine
        layers = {node: layer.precision for layer in engine.layer_info() for node in layer.nodes}
        assert layers["fine.0"] == "fp32"


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_one_thread_is_a_setting_that_keeps_the_result(shared: sv.Wrapped, name: str) -> None:
    x = images(1, seed=5).numpy()
    one, some = (shared.deploy(sv.Scheme(), name, **given).engine.run(x) for given in ({"threads": 1}, {}))
    for a, b in zip(one, some, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("name", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_missing_package_names_the_extra(
    shared: sv.Wrapped, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=rf"'{name}'.*pip install 'sensitivity\[{extra}\]'"):
        shared.deploy(sv.Scheme(), name)


def test_a_missing_exporter_names_the_extra(shared: sv.Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingPackageError, match=r"'onnxscript'.*pip install 'sensitivity\[onnx\]'"):
        shared.deploy(sv.Scheme(), "torch")


@pytest.mark.parametrize("make", [OpenVinoEngine, OrtEngine])
def test_what_is_no_graph_is_refused(make: type) -> None:
    with pytest.raises(EngineBuildError, match="cannot build this graph"):
        make(b"no graph")


def test_an_unknown_engine_is_refused_before_anything_is_done(shared: sv.Wrapped) -> None:
    with pytest.raises(EngineError, match=r"no engine is called 'opnvino'. Choose one of openvino, onnxruntime"):
        shared.deploy(sv.Scheme(), "opnvino")


def test_an_engine_of_ones_own_is_built_from_the_bytes_of_the_graph(shared: sv.Wrapped) -> None:
    class Mine(OrtEngine):
        name = "mine"

    assert shared.deploy(sv.Scheme(), Mine).name == "mine"
