"""Q/DQ: valid, complete, placed as engines want it, and equal to the simulation in ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.graph.copies import swept
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.errors import ExportError
from sensitivity.quantize.weights import weight_codes
from sensitivity.records import QuantSpec, Recipe
from tests.deploy.nets import SAFE, SAFE_INT8, images


@pytest.fixture(scope="module")
def deployed(wrapped: sv.Wrapped) -> Deployed:
    return wrapped.deploy(sv.Scheme.all(sv.INT8), "onnxruntime")


def graph_of(deployed: Deployed) -> Any:
    return deployed.parts[0].qdq.graph


def constants(graph: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {initializer.name: onnx.numpy_helper.to_array(initializer) for initializer in graph.graph.initializer}


def test_the_graph_is_valid_and_its_opset_is_stated(deployed: Deployed) -> None:
    onnx.checker.check_model(graph_of(deployed), full_check=True)
    assert [(opset.domain, opset.version) for opset in graph_of(deployed).opset_import] == [("", 18)]


def test_every_layer_has_its_node_named_by_module_path(deployed: Deployed) -> None:
    nodes = {node.name: node for node in graph_of(deployed).graph.node}
    for layer in deployed.plan.layers:
        assert nodes[layer.module].op_type in {"Conv", "Gemm", "MatMul"}
    assert set(deployed.parts[0].qdq.nodes) == set(deployed.plan.layers.names)
    assert not deployed.plan.left_out


def test_every_quantized_input_is_a_q_dq_pair_without_a_clip(deployed: Deployed) -> None:
    graph = graph_of(deployed).graph
    makers = {name: node for node in graph.node for name in node.output}
    for layer in deployed.plan.quantized:
        node = next(node for node in graph.node if node.name == layer.module)
        for operand in (0, 1):
            assert makers[node.input[operand]].op_type == "DequantizeLinear"
        assert makers[makers[node.input[0]].input[0]].op_type == "QuantizeLinear"
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    readers = [node for node in graph.node if {q.output[0] for q in quantizers} & set(node.input)]
    assert {node.op_type for node in readers} == {"DequantizeLinear"}


def test_weights_are_int8_codes_of_the_folded_weight_and_biases_stay_float(deployed: Deployed) -> None:
    values = constants(graph_of(deployed))
    nodes = {node.name: node for node in graph_of(deployed).graph.node}
    for layer in deployed.plan.quantized:
        weight = deployed.plan.model.get_submodule(layer.module).weight
        codes, scale, _ = weight_codes(weight, QuantSpec("int8", "per-channel"))
        stem = f"{layer.module}.weight"
        stored = values.get(f"{stem}.codes", values.get(f"{stem}.T.codes"))
        assert stored is not None
        assert stored.dtype == np.int8
        assert stored.min() >= -127
        turned = f"{stem}.T.codes" in values
        np.testing.assert_array_equal(stored.T if turned else stored, codes.numpy())
        np.testing.assert_array_equal(values[f"{stem}.T.scale" if turned else f"{stem}.scale"], scale.numpy())
        for bias in nodes[layer.module].input[2:]:
            assert values[bias].dtype == np.float32


def test_no_float_copy_of_a_quantized_weight_remains(deployed: Deployed) -> None:
    values = constants(graph_of(deployed))
    assert not [layer.module for layer in deployed.plan.quantized if f"{layer.module}.weight" in values]


def test_onnx_runtime_computes_what_the_simulation_does_until_codes_flip(wrapped: sv.Wrapped) -> None:
    """One layer at a time there is little to flip: the outputs agree to float rounding, bar single codes."""
    x = images(1, seed=6)
    for layer in (wrapped.layers[0], wrapped.layers[3], wrapped.layers[-1]):
        deployed = wrapped.deploy(sv.Scheme.only(layer.name, sv.INT8), "onnxruntime")
        with deployed.plan.simulated() as model:
            want = model(x)
        output = deployed(x)
        assert float((output - want).abs().max()) < 0.05 * float(want.abs().max())
        assert float((output - want).abs().median()) < 1e-4 * float(want.abs().max())


def test_a_shared_head_has_a_range_for_each_call(shared: sv.Wrapped) -> None:
    graph = graph_of(shared.deploy(sv.Scheme.all(sv.INT8), "onnxruntime"))
    values = constants(graph)
    calibration = shared.calibrations[-1]
    for call in (0, 1):
        node = next(node for node in graph.graph.node if node.name == f"score#{call}")
        dequantize = next(producer for producer in graph.graph.node if node.input[0] in producer.output)
        point = next(p for p in calibration.ranges if p.layer == shared.layers["score"].name and p.call == call)
        observed = calibration.ranges[point]
        largest = max(-observed.low[0], observed.high[0])
        assert values[dequantize.input[1]] == pytest.approx(largest / 127, rel=1e-6)
    assert Counter(node.op_type for node in graph.graph.node)["Conv"] == 6


def test_a_transposed_convolution_has_its_scales_along_axis_one(shared: sv.Wrapped) -> None:
    graph = graph_of(shared.deploy(sv.Scheme.all(sv.INT8), "onnxruntime"))
    node = next(node for node in graph.graph.node if node.name == "up.weight.quantized")
    assert [attribute.i for attribute in node.attribute if attribute.name == "axis"] == [1]
    assert constants(graph)["up.weight.scale"].shape == (8,)


def test_layers_that_read_one_tensor_share_its_quantizer(shared: sv.Wrapped) -> None:
    quantizers = shared.deploy(sv.Scheme.all(sv.INT8), "onnxruntime").parts[0].qdq.quantizers
    assert quantizers["coarse.0"] == quantizers["tower#0"]
    assert quantizers["tower#0"] != quantizers["tower#1"]


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_a_layer_that_pads_by_itself_is_quantized_in_front_of_its_padding_as_it_is_simulated(mode: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, padding_mode=mode), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1, padding_mode=mode)
    )
    wrapped = sv.wrap(net.eval(), images(1))
    wrapped.calibrate([images(4, seed=1)], SAFE_INT8)
    deployed = wrapped.deploy(SAFE)
    graph = graph_of(deployed).graph
    pads = [node for node in graph.node if node.op_type == "Pad"]
    assert [node.input[0] for node in pads] == ["0.input.quantized", "2.input.quantized"]
    verification = wrapped.verify(deployed)
    assert [(check.executed, check.status) for check in verification.layers] == [("int8", "verified")] * 2
    x = images(2, seed=3)
    with deployed.plan.simulated() as model:
        assert sqnr_db(model(x), deployed(x)) > 40.0


def test_protected_layers_stay_in_float(shared: sv.Wrapped) -> None:
    deployed = shared.deploy(sv.Scheme.all(sv.INT8).protect("tower"), "onnxruntime")
    graph = graph_of(deployed)
    assert constants(graph)["tower.weight"].dtype == np.float32
    assert not [name for name in deployed.parts[0].qdq.quantizers if name.startswith("tower")]


@pytest.mark.parametrize(
    ("recipe", "inputs", "dtype"),
    [
        (sv.INT8_WEIGHTS, "tower.weight#0.quantized", np.int8),
        (sv.INT4_WEIGHTS, "tower.weight#0.quantized", np.int8),
        (sv.INT8_ACTIVATIONS, "tower.weight", np.float32),
        (sv.Prune(0.5), "tower.weight.pruned", np.float32),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_half_recipes_quantize_half(shared: sv.Wrapped, recipe: Recipe, inputs: str, dtype: type) -> None:
    deployed = shared.deploy(sv.Scheme.all(recipe), "onnxruntime")
    graph = graph_of(deployed)
    node = next(node for node in graph.graph.node if node.name == "tower#0")
    assert node.input[1] == inputs
    x = images(1, seed=4)
    with deployed.plan.simulated() as model:
        want: Any = model(x)
    torch.testing.assert_close(deployed(x)["up"][0], want["up"][0], atol=1e-4, rtol=0)
    values = constants(graph)
    stored = next(values[name] for name in ("tower.weight.codes", inputs) if name in values)
    assert stored.dtype == dtype
    if recipe is sv.INT4_WEIGHTS:
        assert (stored.min(), stored.max()) == (-7, 7)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (sv.THESIS, "placement 'conv-norm-act' puts quantizers where no engine has them"),
        (sv.FP8, "weights in fp8_e4m3 are not supported"),
        (Recipe("a", activations=QuantSpec("int4")), "activations in int4 need a Clip"),
        (Recipe("w", weights=QuantSpec("int8", symmetric=False)), "weights must be symmetric"),
        (Recipe("g", weights=QuantSpec("int8", "per-group", group_size=8)), "weights must be symmetric, per channel"),
        (Recipe("c", activations=QuantSpec("int8", "per-channel")), "activations must be quantized per tensor"),
        (Recipe("x", weights=QuantSpec("int8", "per-channel", axis=1)), "along their output channels"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_recipe_that_q_dq_cannot_say_is_refused(shared: sv.Wrapped, recipe: Recipe, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        shared.deploy(sv.Scheme.all(recipe), "onnxruntime")


def test_affine_activations_are_written_with_their_zero_point(shared: sv.Wrapped) -> None:
    recipe = Recipe("affine", sv.INT8.weights, QuantSpec("uint8", symmetric=False))
    calibration = shared.calibrations[-1]
    deployed = shared.deploy(sv.Scheme.all(recipe), "onnxruntime", calibration=calibration)
    values = constants(graph_of(deployed))
    assert values["fine.0.input.zero_point"].dtype == np.uint8
    assert values["fine.0.input.zero_point"] > 0
    with pytest.raises(ExportError, match="TensorRT knows symmetric int8"):
        shared.plan(sv.Scheme.all(recipe), calibration=calibration, target="tensorrt")


def test_what_only_the_branch_of_an_if_reads_is_not_swept_up() -> None:
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    branch = onnx.helper.make_graph([node("Neg", ["seen"], ["negated"])], "b", [], [info("negated", 1, [1])])
    nodes = [
        node("Abs", ["x"], ["seen"]),
        node("Exp", ["x"], ["unread"]),
        node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
    ]
    ports = [info("x", 1, [1]), info("flag", onnx.TensorProto.BOOL, [])]
    graph = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ports, [info("y", 1, [1])]))
    graph = swept(graph)
    assert [node.op_type for node in graph.graph.node] == ["Abs", "If"]
    onnx.checker.check_model(graph)
