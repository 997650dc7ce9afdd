"""OpenVINO is wrong where a concatenation is quantized, unless codes are concatenated. ONNX Runtime is the truth."""

from __future__ import annotations

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines import openvino_engine
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.deploy.engines.openvino_workarounds.concatenation import with_concatenated_codes
from sensitivity.deploy.engines.ort_engine import OrtEngine
from tests.deploy.nets import SAFE, SAFE_INT8, has_amx


class Joined(nn.Module):
    """Concatenations in front of convolutions: one, one in another, one along rows, one that a float branch reads."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.dense, self.depthwise = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(16, 16, 3, groups=16, padding=1)
        self.nested, self.rows, self.last = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        left, right = self.left(x).relu(), self.right(x)
        both = torch.cat([left, right], 1)
        dense, depthwise = self.dense(both), self.depthwise(both)
        nested = self.nested(torch.cat([torch.cat([right, dense], 1), left], 1))
        rows = self.rows(torch.cat([left, nested], 2))
        read_in_float = torch.cat([nested, right], 1)
        return depthwise, rows, self.last(read_in_float), read_in_float.sigmoid()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def wrapped(images: Tensor) -> sv.Wrapped:
    torch.manual_seed(0)
    wrapped = sv.wrap(Joined().eval(), images[:1])
    wrapped.calibrate(images, SAFE_INT8)
    return wrapped


@pytest.fixture(scope="module")
def graph(wrapped: sv.Wrapped) -> bytes:
    graphs: list[bytes] = []

    def keep(graph: bytes) -> OrtEngine:
        graphs.append(graph)
        return OrtEngine(graph)

    wrapped.deploy(SAFE, keep)
    return graphs[0]


def sqnr_db(truth: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10((truth.astype(float) ** 2).sum() / ((truth - other).astype(float) ** 2).sum()))


def test_openvino_computes_convolutions_behind_concatenations_as_onnx_runtime_does(
    graph: bytes, images: Tensor
) -> None:
    image = images[:1].numpy()
    expected = OrtEngine(graph).run(image)
    computed = OpenVinoEngine(graph, threads=1).run(image)
    assert [sqnr_db(*pair) > 60 for pair in zip(expected, computed, strict=True)] == [True] * 4


@pytest.mark.skipif(not openvino.__version__.startswith("2026.4"), reason="a defect of OpenVINO 2026.4")
@pytest.mark.skipif(has_amx(), reason="with AMX OpenVINO computes them right")
def test_this_openvino_computes_them_wrongly_by_itself(
    graph: bytes, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "with_concatenated_codes", lambda model: 0)
    image = images[:1].numpy()
    computed, expected = OpenVinoEngine(graph, threads=1).run(image), OrtEngine(graph).run(image)
    assert min(sqnr_db(*pair) for pair in zip(expected, computed, strict=True)) < 30


def test_the_layers_behind_concatenations_run_in_int8_and_are_verified(wrapped: sv.Wrapped, images: Tensor) -> None:
    deployed = wrapped.deploy(SAFE, "openvino")
    verification = wrapped.verify(deployed, sv.FeatureFidelity(images))
    assert verification.passed
    assert {row.layer: row.executed for row in verification.layers if row.executed != "int8"} == {}


def test_only_pairs_behind_concatenations_are_moved_and_the_graph_stays_valid(graph: bytes) -> None:
    model = onnx.load_from_string(graph)
    before = [node.op_type for node in model.graph.node]
    assert with_concatenated_codes(model) > 0
    onnx.checker.check_model(model, full_check=True)
    after = [node.op_type for node in model.graph.node]
    assert after.count("DequantizeLinear") == before.count("DequantizeLinear")
    assert after.count("Conv") == before.count("Conv")
    assert with_concatenated_codes(model) == 0


def test_a_graph_that_tells_the_types_of_its_tensors_stays_valid(graph: bytes, images: Tensor) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph))
    assert onnx.TensorProto.INT8 in {port.type.tensor_type.elem_type for port in model.graph.value_info}
    assert with_concatenated_codes(model) > 0
    image = images[:1].numpy()
    outputs = zip(OrtEngine(graph).run(image), OrtEngine(model.SerializeToString()).run(image), strict=True)
    assert [np.array_equal(*pair) for pair in outputs] == [True] * 4


def test_ranges_per_channel_stay_behind_the_concatenation() -> None:
    helper = onnx.helper
    scale = onnx.numpy_helper.from_array(np.ones(2, np.float32), "scale")
    zero = onnx.numpy_helper.from_array(np.zeros(2, np.int8), "zero")
    port = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 2, 2])
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["joined"], axis=1),
        helper.make_node("QuantizeLinear", ["joined", "scale", "zero"], ["codes"], axis=1),
    ]
    out = helper.make_tensor_value_info("codes", onnx.TensorProto.INT8, [1, 2, 2, 2])
    model = helper.make_model(helper.make_graph(nodes, "g", [port], [out], [scale, zero]))
    assert with_concatenated_codes(model) == 0
    assert [node.op_type for node in model.graph.node] == ["Concat", "QuantizeLinear"]
