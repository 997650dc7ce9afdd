"""ONNX Runtime's integer kernels: the second engine that runs int8 as int8 on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.engines.ort_int8_engine import OrtInt8Engine
from sensitivity.deploy.graph.integer_products import with_integer_products
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.errors import ExportError
from tests.deploy.nets import SAFE, SAFE_INT8, images

AFFINE = sv.Recipe("affine", SAFE_INT8.weights, sv.INT8_AFFINE.activations)


def graph_of(wrapped: sv.Wrapped, scheme: sv.Scheme) -> onnx.ModelProto:
    return wrapped.deploy(scheme, "onnxruntime").parts[0].graph


def test_every_layer_of_the_nets_is_verified_in_int8(wrapped: sv.Wrapped) -> None:
    verification = wrapped.verify(wrapped.deploy(SAFE, "onnxruntime-int8"))
    assert verification.passed
    assert {(check.status, check.executed) for check in verification.layers} == {("verified", "int8")}


def test_onnx_runtimes_own_profile_names_integer_kernels_and_no_float_convolution(
    shared: sv.Wrapped, tmp_path: Path
) -> None:
    graph, names = with_integer_products(graph_of(shared, SAFE.protect("up")))
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"input0": images(1).numpy()})
    events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    operators = [event["args"]["op_name"] for event in events if event.get("cat") == "Node"]
    assert operators.count("ConvInteger") == len(names) == 6
    assert operators.count("Conv") == 0
    assert operators.count("ConvTranspose") == 1


@pytest.mark.parametrize("recipe", [SAFE_INT8, AFFINE], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, 2, 1, dilation=2),
        nn.Conv2d(3, 9, 3, padding="same", groups=3, bias=False),
        nn.Conv2d(3, 3, 3, padding=1, groups=3),
        nn.Conv1d(3, 6, 3, padding=1),
        nn.Linear(12, 7),
        nn.Linear(12, 7, bias=False),
    ],
    ids=["dilated", "grouped", "depthwise", "one axis", "linear", "linear without bias"],
)
def test_products_of_integers_equal_the_float_reference(layer: nn.Module, recipe: sv.Recipe) -> None:
    torch.manual_seed(0)
    shape = (1, 3, 12) if isinstance(layer, (nn.Conv1d, nn.Linear)) else (1, 3, 12, 12)
    wrapped = sv.wrap(nn.Sequential(layer).eval(), torch.zeros(shape))
    values = torch.randn(4, *shape[1:])
    wrapped.calibrate(values, recipe)
    graph = graph_of(wrapped, sv.Scheme.all(recipe))
    written, names = with_integer_products(graph)
    onnx.checker.check_model(written, full_check=True)
    assert names == {"0"}
    assert not {"Conv", "Gemm", "MatMul"} & {node.op_type for node in written.graph.node}
    content = graph.SerializeToString()
    image = values[:1].numpy()
    (expected,), (computed,) = OrtEngine(content).run(image), OrtInt8Engine(content).run(image)
    assert sqnr_db(expected, computed) > 110


def test_products_read_unsigned_codes_alone_which_no_cpu_cuts_off(shared: sv.Wrapped) -> None:
    written, names = with_integer_products(graph_of(shared, SAFE))
    unsigned = onnx.TensorProto.UINT8
    types = {tensor.name: tensor.data_type for tensor in written.graph.initializer}
    made = {node.output[0]: node for node in written.graph.node}
    products = [node for node in written.graph.node if node.name in names]
    assert {types[made[node.input[0]].input[2]] for node in products} == {unsigned}
    assert {types[name] for node in products for name in node.input[1:]} == {unsigned}
    assert (
        sum(node.op_type == "QuantizeLinear" for node in written.graph.node) == len({n.input[0] for n in products}) + 1
    )


def test_what_has_no_integer_operator_stays_in_float_and_is_told(shared: sv.Wrapped) -> None:
    verification = shared.verify(shared.deploy(SAFE, "onnxruntime-int8"))
    executed = {check.module: check.executed for check in verification.layers}
    assert executed.pop("up") == "fp32"
    assert set(executed.values()) == {"int8"}


def test_weights_alone_and_half_products_are_left_as_they_are(shared: sv.Wrapped) -> None:
    graph = graph_of(shared, sv.Scheme.all(sv.INT8_WEIGHTS))
    written, names = with_integer_products(graph)
    assert names == frozenset()
    assert [node.op_type for node in written.graph.node] == [node.op_type for node in graph.graph.node]


def test_its_layers_are_timed_with_what_scales_their_sums(shared: sv.Wrapped) -> None:
    deployed = shared.deploy(SAFE, "onnxruntime-int8", threads=1)
    times = deployed.profile()
    assert set(times) == {layer.name for layer in shared.layers}
    assert all(seconds > 0 for seconds in times.values())
    layers = {node: layer for layer in deployed.engine.layer_info() for node in layer.nodes}
    assert layers["tower#0"].precision == "int8"
    assert not [name for name in layers if name.startswith("tower#0/")]


def test_a_scale_for_each_channel_of_the_input_stays_in_float() -> None:
    torch.manual_seed(0)
    wrapped = sv.wrap(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)).eval(), torch.zeros(1, 4, 8, 8))
    recipe = sv.Recipe("by channel", SAFE_INT8.weights, sv.QuantSpec("int8", "per-channel"))
    wrapped.calibrate(torch.randn(2, 4, 8, 8), recipe)
    with pytest.raises(ExportError, match="cannot be deployed: activations must be quantized per tensor"):
        wrapped.deploy(sv.Scheme.all(recipe), "onnxruntime-int8")
    _, names = with_integer_products(graph_of(wrapped, sv.Scheme.all(recipe)))
    assert names == frozenset()


def test_threads_are_those_that_were_asked_for(shared: sv.Wrapped) -> None:
    first, second = (shared.deploy(SAFE, "onnxruntime-int8", threads=count) for count in (1, 2))
    image = images(1).numpy()
    for first_output, two in zip(first.engine.run(image), second.engine.run(image), strict=True):
        np.testing.assert_array_equal(first_output, two)
