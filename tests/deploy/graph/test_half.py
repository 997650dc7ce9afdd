"""A graph with its rest in fp16: which types it holds, what stays in fp32, and what it computes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.graph.export.export import export
from sensitivity.deploy.graph.half import OPSET, _Converter, to_half
from sensitivity.deploy.graph.qdq import insert_qdq
from sensitivity.deploy.graph.scopes import Scopes
from sensitivity.deploy.prepare.measures import sqnr_of_all_db
from sensitivity.errors import ExportError
from tests.deploy.nets import SAFE, images

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


class Normed(nn.Module):
    """A norm written by hand between two convolutions; its squares leave fp16 for inputs above 256."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), HandNorm(), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.first.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


class HandNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        return (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


@cache
def normed(scale: float = 1.0) -> sv.Wrapped:
    """Exported once for all tests."""
    return wrapped_of(Normed(scale))


def wrapped_of(model: nn.Module, example: Tensor | None = None) -> sv.Wrapped:
    torch.manual_seed(0)
    example = images(1, side=16) if example is None else example
    made = sv.wrap(model.eval(), example)
    made.calibrate([example], SAFE.recipes[0])
    return made


def half_graph(wrapped: sv.Wrapped, scheme: sv.Scheme, **settings: Any) -> onnx.ModelProto:
    plan = wrapped.plan(scheme)
    return to_half(insert_qdq(export(plan).parts[0].graph, plan), plan, "", **settings)


def types_of(graph: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    ports = (*inferred.input, *inferred.output, *inferred.value_info)
    types = {port.name: port.type.tensor_type.elem_type for port in ports}
    return types | {tensor.name: tensor.data_type for tensor in graph.graph.initializer}


def casts_of(graph: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(node.input[0], node.attribute[0].i) for node in graph.graph.node if node.op_type == "Cast"]


def test_every_float_value_but_inputs_and_outputs_is_float16(wrapped: sv.Wrapped) -> None:
    graph = half_graph(wrapped, sv.Scheme.all(sv.INT8).with_rest("fp16"))
    onnx.checker.check_model(graph, full_check=True)
    floats = {name for name, kind in types_of(graph).items() if kind == FLOAT}
    assert floats == {"input0", "output0"}
    assert [kind for _, kind in casts_of(graph)] == [HALF, FLOAT]


def test_the_opset_is_the_first_whose_quantizers_take_float16(wrapped: sv.Wrapped) -> None:
    graph = half_graph(wrapped, sv.Scheme.all(sv.INT8).with_rest("fp16"))
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]
    for opset, fits in ((OPSET - 1, False), (OPSET, True)):
        schema = onnx.defs.get_schema("QuantizeLinear", opset)
        scale = schema.inputs[1].type_str
        allowed = {kind.type_param_str: kind.allowed_type_strs for kind in schema.type_constraints}
        assert ("tensor(float16)" in allowed.get(scale, [scale])) is fits


def test_scales_are_those_that_the_simulation_quantizes_with(wrapped: sv.Wrapped) -> None:
    scheme = sv.Scheme.all(sv.INT8).with_rest("fp16")
    plan, graph = wrapped.plan(scheme), half_graph(wrapped, scheme)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    first = plan.quantized[0]
    codes, params = plan.weight_codes(first), plan.input_params(first)
    assert codes is not None
    assert params is not None
    written = constants[f"{first.module}.weight.scale.fp16"], constants[f"{first.module}.input.scale.fp16"]
    for array, scale in zip(written, (codes.params.scale, params.scale), strict=True):
        assert array.dtype == np.float16
        np.testing.assert_array_equal(array.astype(np.float32), scale.numpy())
    exact = wrapped.plan(sv.Scheme.all(sv.INT8)).weight_codes(first)
    assert exact is not None
    assert (codes.params.scale >= exact.params.scale).all()
    torch.testing.assert_close(codes.params.scale, exact.params.scale, rtol=2**-10, atol=0)


def test_a_scale_below_the_range_of_float16_is_raised_to_its_smallest_number() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    wrapped = wrapped_of(model)
    with torch.no_grad():
        model[0].weight[0] = 0.0
        model[0].weight[1] *= 1e-9
    wrapped = wrapped_of(model)
    codes = wrapped.plan(SAFE.with_rest("fp16")).weight_codes(wrapped.layers[0])
    assert codes is not None
    assert codes.params.scale[:2].tolist() == [2.0**-24, 2.0**-24]


@pytest.mark.parametrize("io", ["fp32", "fp16"])
def test_inputs_and_outputs_are_of_the_type_that_is_asked_for(io: str) -> None:
    graph = half_graph(normed(), SAFE.with_rest("fp16"), io=io)
    kinds = {port.type.tensor_type.elem_type for port in (*graph.graph.input, *graph.graph.output)}
    assert kinds == {{"fp32": FLOAT, "fp16": HALF}[io]}
    assert len(casts_of(graph)) == {"fp32": 2, "fp16": 0}[io]


def test_a_deployed_model_takes_and_returns_float32_whatever_its_graph_has() -> None:
    wrapped, x = normed(), images(1, seed=5, side=16)
    scheme = SAFE.with_rest("fp16")
    plain = wrapped.deploy(scheme, "onnxruntime")(x)
    halves = wrapped.deploy(scheme, "onnxruntime", io="fp16")
    assert halves(x).dtype == torch.float32
    torch.testing.assert_close(halves(x), halves(x.half().float()), rtol=0, atol=0)
    assert sqnr_of_all_db([plain], [halves(x)]) > 40
    assert wrapped.verify(halves).outputs_pass


@pytest.mark.parametrize(
    ("scheme", "engine", "io", "words"),
    [
        (SAFE, "onnxruntime", "fp16", r"This scheme has rest='fp32', and the engine is onnxruntime"),
        (SAFE.with_rest("fp16"), "torch", "fp16", r"the engine is torch\. Leave io out"),
    ],
)
def test_half_inputs_without_a_half_graph_are_refused(scheme: sv.Scheme, engine: str, io: Any, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        normed().deploy(scheme, engine, io=io)


def test_another_type_of_inputs_is_refused() -> None:
    wrapped = normed()
    with pytest.raises(ExportError, match=r"io='int8' is no type for inputs and outputs"):
        half_graph(wrapped, SAFE.with_rest("fp16"), io="int8")


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
@pytest.mark.parametrize("entry", ["norms", "norm", "n*m"])
def test_what_is_kept_in_fp32_is_between_casts_and_nothing_else_is(
    entry: str, exporter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = normed()
    if exporter == "legacy":
        monkeypatch.setattr("sensitivity.deploy.graph.export.export.write_by_dynamo", _refused)
        wrapped = wrapped_of(Normed())
    graph = half_graph(wrapped, SAFE.with_rest("fp16", keep_fp32=entry))
    types, scopes = types_of(graph), Scopes(wrapped.plan(SAFE).model, "")
    inside = {"Sub", "Pow", "Mul", "ReduceMean", "Add", "Sqrt", "Div"}
    for node in graph.graph.node:
        if node.op_type in inside:
            assert scopes.module_of(node) == "norm"
            assert types[node.output[0]] == FLOAT
        elif node.op_type in ("Conv", "Relu"):
            assert types[node.output[0]] == HALF
    kinds = [kind for _, kind in casts_of(graph)]
    assert sorted(kinds) == sorted([HALF, FLOAT, HALF, FLOAT])  # the input, into the norm, out of it, the output


def _refused(*_: Any) -> Any:
    raise ExportError("refused by this test")


def test_a_quantized_layer_inside_of_what_is_kept_has_scales_in_fp32() -> None:
    wrapped = normed()
    scheme = SAFE.with_rest("fp16", keep_fp32="last")
    types = types_of(half_graph(wrapped, scheme))
    assert types["last.weight.scale"] == FLOAT
    assert types["first.weight.scale.fp16"] == HALF
    plan, exact = wrapped.plan(scheme), wrapped.plan(SAFE)
    for layer, same in (("last", True), ("first", False)):
        scales = [each.weight_codes(each.layers[layer]).params.scale for each in (plan, exact)]  # type: ignore[union-attr]
        assert torch.equal(*scales) is same


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_casts_around_what_is_kept_survive_the_optimizer_of_onnx_runtime(level: str, tmp_path: Path) -> None:
    graph = half_graph(normed(3e2), sv.Scheme().with_rest("fp16", keep_fp32="norm"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = images(1, seed=3, side=16).numpy()
    (reference,) = ReferenceEvaluator(graph).run(None, {"input0": x})
    (output,) = session.run(None, {"input0": x})
    assert np.isfinite(reference).all()
    np.testing.assert_allclose(output, reference, atol=0.05)
    optimized = onnx.load(tmp_path / "optimized.onnx")
    types = types_of(optimized)
    nodes = [
        node for node in optimized.graph.node if node.op_type in ("Sub", "Mul", "Pow", "ReduceMean", "Sqrt", "Div")
    ]
    assert len(nodes) >= 5
    assert HALF not in {types.get(name, FLOAT) for node in nodes for name in (*node.input, *node.output)}
    assert ("Cast", FLOAT) in {(node.op_type, node.attribute[0].i) for node in optimized.graph.node if node.attribute}


def test_the_engine_rounds_as_the_reference_evaluator_of_onnx_does() -> None:
    wrapped = normed()
    scheme = sv.Scheme().with_rest("fp16")
    deployed, graph = wrapped.deploy(scheme, "onnxruntime"), half_graph(wrapped, scheme)
    x = images(1, seed=4, side=16)
    (wanted,) = ReferenceEvaluator(graph).run(None, {"input0": x.numpy()})
    assert sqnr_of_all_db([torch.from_numpy(wanted)], [deployed(x)]) > 55


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of NumPy, met by the evaluator
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of NumPy, met by the evaluator
def test_onnx_runtime_by_itself_hides_an_overflow_that_its_engine_here_shows() -> None:
    wrapped, x = normed(), 1e4 * images(1, seed=4, side=16)
    graph = half_graph(wrapped, sv.Scheme().with_rest("fp16"))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    with np.errstate(all="ignore"):
        wanted = torch.from_numpy(ReferenceEvaluator(graph).run(None, {"input0": x.numpy()})[0])
    alone = torch.from_numpy(session.run(None, {"input0": x.numpy()})[0])
    shown = wrapped.deploy(sv.Scheme().with_rest("fp16"), "onnxruntime")(x)
    with torch.no_grad():
        exact = wrapped.model(x)
    assert sqnr_of_all_db([exact], [alone]) > 40
    assert sqnr_of_all_db([exact], [wanted]) < 3
    assert sqnr_of_all_db([wanted], [shown]) > 40


def test_the_engine_is_nearer_to_the_simulation_that_rounds_every_node_than_to_the_fused_one(
    wrapped: sv.Wrapped,
) -> None:
    scheme = sv.Scheme.all(sv.INT8).with_rest("fp16")
    deployed, inputs = wrapped.deploy(scheme, "onnxruntime"), [images(1, seed=seed) for seed in range(20, 28)]
    computed = [deployed(x) for x in inputs]
    assert not deployed.plan.fused
    simulated: list[list[Tensor]] = []
    for plan in (deployed.plan, wrapped.plan(scheme)):
        with plan.simulated() as model, torch.no_grad():
            simulated.append([model(x).clone() for x in inputs])
    each_node, fused = (sqnr_of_all_db(outputs, computed) for outputs in simulated)
    assert each_node > fused + 5.0


def test_the_rest_in_fp16_is_verified(wrapped: sv.Wrapped) -> None:
    verification = wrapped.verify(wrapped.deploy(sv.Scheme.only("@exit", sv.INT8).with_rest("fp16"), "onnxruntime"))
    planned = {check.layer: (check.planned, check.executed, check.status) for check in verification.layers}
    exits = {layer.name for layer in wrapped.layers.select("@exit")}
    for layer, verdict in planned.items():
        assert verdict == (("int8", "fp16", "agrees in float") if layer in exits else ("fp16", "fp16", "in float"))
    assert verification.outputs_pass


class Branch(nn.Module):
    """Operators that ONNX knows in float32 alone, or that say themselves what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        grown = nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
        mask = torch.where(grown > 0, grown, torch.full_like(grown, -1.0))
        return mask + (grown > 0.5).float() + torch.arange(grown.shape[-1]).float() / 7


def test_inputs_that_onnx_wants_in_float32_stay_so_and_made_values_are_float16() -> None:
    graph = half_graph(wrapped_of(Branch()), sv.Scheme().with_rest("fp16"))
    types = types_of(graph)
    resize = next(node for node in graph.graph.node if node.op_type == "Resize")
    assert types[resize.input[0]] == HALF
    assert all(types[name] == FLOAT for name in resize.input[2:3] if name)
    assert {types[node.output[0]] for node in graph.graph.node if node.op_type == "Cast"} == {HALF, FLOAT}


def test_a_constant_that_fp16_cannot_hold_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0] = 1e5
    wrapped = wrapped_of(model)
    with pytest.raises(
        ExportError, match=r"the constant '1\.weight', which reaches 1e\+05 .*\(in 1\).*keep_fp32=\('1',\)"
    ):
        half_graph(wrapped, sv.Scheme().with_rest("fp16"))
    half_graph(wrapped, sv.Scheme().with_rest("fp16", keep_fp32="1"))


class Guarded(nn.Module):
    """A quotient with an epsilon that is 0 in fp16, as in EfficientViT's linear attention."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.fc(x))
        return y / (y.sum(-1, keepdim=True) + 1e-15)


def test_an_epsilon_that_vanishes_in_fp16_is_refused_where_the_simulation_divides_by_zero() -> None:
    model = nn.Sequential(Guarded())
    with torch.no_grad():
        model[0].fc.bias.fill_(-9.0)
    wrapped, x = wrapped_of(model, torch.zeros(1, 4)), torch.zeros(1, 4)
    scheme = sv.Scheme().with_rest("fp16")
    with wrapped.plan(scheme, target="onnxruntime").simulated() as simulated, torch.no_grad():
        assert simulated(x).isnan().all()
    with pytest.raises(
        ExportError, match=r"1e-15, which would be 0 and guard no division \(in 0\).*keep_fp32=\('0',\)"
    ):
        wrapped.deploy(scheme, "onnxruntime")
    deployed = wrapped.deploy(scheme.with_rest("fp16", keep_fp32="0"), "onnxruntime")
    assert deployed(x).tolist() == [[0.0] * 4]


def branching() -> onnx.ModelProto:
    """``y = relu(x * w)``, then either ``y + w`` or ``y * w``, by the sign of the mean of ``x``."""
    helper = onnx.helper
    port = lambda name, shape, kind=FLOAT: helper.make_tensor_value_info(name, kind, shape)  # noqa: E731
    branches = {
        branch: helper.make_graph([helper.make_node(kind, ["y", "w"], [branch])], branch, [], [port(branch, [1, 3])])
        for branch, kind in (("then_branch", "Add"), ("else_branch", "Mul"))
    }
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["product"], name="product"),
        helper.make_node("Relu", ["product"], ["y"], name="y"),
        helper.make_node("ReduceMean", ["x"], ["mean"], name="mean", keepdims=0),
        helper.make_node("Greater", ["mean", "zero"], ["positive"], name="positive"),
        helper.make_node("If", ["positive"], ["chosen"], name="chosen", **branches),
        helper.make_node("Sigmoid", ["chosen"], ["s"], name="s"),
        helper.make_node("Identity", ["s"], ["out"], name="out"),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array([[1.5, -2.0, 0.3]], np.float32), "w"),
        onnx.numpy_helper.from_array(np.float32(0.0), "zero"),
    ]
    graph = helper.make_graph(nodes, "branching", [port("x", [1, 3])], [port("out", [1, 3])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_graphs_inside_of_nodes_stay_in_fp32_and_read_what_is_outside_as_such(sign: float) -> None:
    graph, x = branching(), sign * np.array([[1.0, 2.0, -0.5]], np.float32)
    (exact,) = ReferenceEvaluator(graph).run(None, {"x": x})
    _Converter(graph, {node.output[0]: False for node in graph.graph.node}).convert(FLOAT)
    del graph.graph.value_info[:]
    onnx.checker.check_model(graph, full_check=True)
    types = types_of(graph)
    assert (types["y"], types["y.fp32"], types["chosen"], types["s"]) == (HALF, FLOAT, FLOAT, HALF)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for (computed,) in (ReferenceEvaluator(graph).run(None, {"x": x}), session.run(None, {"x": x})):
        np.testing.assert_allclose(computed, exact, atol=2e-3)
    (rounded,) = OrtEngine(graph.SerializeToString()).run(x)
    np.testing.assert_allclose(rounded, exact, atol=2e-3)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_in_fp16_is_one_operator_that_rounds_once(approximate: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(approximate), nn.Conv2d(8, 4, 1)).eval()
    wrapped = sv.wrap(net, images(1, side=16))
    deployed = wrapped.deploy(sv.Scheme().with_rest("fp16"), "onnxruntime")
    assert [node.op_type for node in deployed.parts[0].graph.graph.node if node.op_type in ("Gelu", "Erf", "Tanh")] == [
        "Gelu"
    ]
    x = images(1, seed=4, side=16)
    with deployed.plan.simulated() as model, torch.no_grad():
        simulated = model(x).clone()
    assert sqnr_of_all_db([simulated], [deployed(x)]) > 60.0
