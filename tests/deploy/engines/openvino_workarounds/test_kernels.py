"""Convolutions whose kernels fill rows of AMX tiles, which OpenVINO by itself computes wrongly on CPUs with AMX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines.openvino_workarounds.kernels import with_odd_kernels
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.prepare.measures import sqnr_db
from tests.deploy.nets import SAFE, SAFE_INT8


class Patches(nn.Module):
    """A layer between two others, so that its codes are read, too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, one_dimension = layer, isinstance(layer, nn.Conv1d)
        kind = nn.Conv1d if one_dimension else nn.Conv2d
        self.first, self.last = kind(3, layer.in_channels, 1), kind(layer.out_channels, 4, 1)  # type: ignore[arg-type]
        self.shape = (1, 3, 48) if one_dimension else (1, 3, 24, 24)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.layer(self.first(x).relu()))
        return result


LAYERS: dict[str, nn.Module] = {
    "4x4 in patches": nn.Conv2d(32, 8, 4, stride=4),
    "8x8 in patches": nn.Conv2d(16, 8, 8, stride=8),
    "8x8 with a stride of 4": nn.Conv2d(24, 8, 8, stride=4, padding=2),
    "3x8": nn.Conv2d(32, 8, (3, 8), padding=(0, 1)),
    "dilated along one side": nn.Conv2d(16, 8, 8, dilation=(2, 1), padding=4),
    "dilated along both": nn.Conv2d(16, 8, 8, dilation=2),
    "in groups": nn.Conv2d(32, 8, 8, groups=2),
    "one dimension": nn.Conv1d(16, 8, 8, stride=8),
}

OTHERS: dict[str, nn.Module] = {
    "one row": nn.Conv2d(16, 8, 4, stride=4),
    "no whole rows": nn.Conv2d(20, 8, 8),
    "channels that fill a row": nn.Conv2d(64, 8, 4, stride=4),
    "odd": nn.Conv2d(32, 8, 7),
    "depthwise": nn.Conv2d(64, 64, 4, groups=64),
    "transposed": nn.ConvTranspose2d(32, 8, 4, stride=4),
}


def wrapped_net(net: Patches) -> tuple[sv.Wrapped, Tensor]:
    image = torch.randn(*net.shape, generator=torch.Generator().manual_seed(0))
    wrapped = sv.wrap(net.eval(), image)
    wrapped.calibrate(image, SAFE_INT8)
    return wrapped, image


def graph_of(layer: nn.Module, scheme: sv.Scheme = SAFE) -> tuple[onnx.ModelProto, Tensor]:
    graphs: list[bytes] = []
    wrapped, image = wrapped_net(Patches(layer))
    wrapped.deploy(scheme, lambda graph: graphs.append(graph) or OrtEngine(graph))  # type: ignore[func-returns-value]
    return onnx.load_from_string(graphs[0]), image


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_engine_computes_what_was_simulated(layer: nn.Module) -> None:
    wrapped, image = wrapped_net(Patches(layer))
    deployed = wrapped.deploy(SAFE, "openvino", threads=1)
    with deployed.plan.simulated() as model, torch.no_grad():
        assert sqnr_db(model(image), deployed(image)) > 40.0


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_one_column_of_zeros_more_changes_no_bit(layer: nn.Module) -> None:
    graph, image = graph_of(layer)
    before = OrtEngine(graph.SerializeToString()).run(image.numpy())
    assert with_odd_kernels(graph) == 1
    onnx.checker.check_model(graph, full_check=True)
    after = OrtEngine(graph.SerializeToString()).run(image.numpy())
    np.testing.assert_array_equal(before, after)
    assert with_odd_kernels(graph) == 0


@pytest.mark.parametrize("layer", OTHERS.values(), ids=OTHERS)
def test_other_convolutions_stay(layer: nn.Module) -> None:
    assert with_odd_kernels(graph_of(layer)[0]) == 0


@pytest.mark.parametrize(("channels", "rest", "changed"), [(16, "bf16", 1), (16, "fp32", 0), (8, "bf16", 0)])
def test_kernels_in_half_precision_fill_rows_with_half_as_many_channels(channels: int, rest: Any, changed: int) -> None:
    graph, image = graph_of(nn.Conv2d(channels, 8, 4, stride=4), sv.Scheme())
    before = OrtEngine(graph.SerializeToString()).run(image.numpy())
    assert with_odd_kernels(graph, rest) == changed
    after = OrtEngine(graph.SerializeToString()).run(image.numpy())
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)


def test_the_column_holds_the_zero_points_of_its_channels() -> None:
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        node("DequantizeLinear", ["codes", "scale"], ["data"]),
        node("DequantizeLinear", ["weight", "scales", "points"], ["real"], axis=0),
        node("Conv", ["data", "real"], ["result"]),
    ]
    points = np.array([3, -5], np.int8)
    tensors = [
        tensor(np.ones((2, 16, 1, 8), np.int8), "weight"),
        tensor(points, "points"),
        tensor(np.ones(2, np.float32), "scales"),
        tensor(np.float32(1.0), "scale"),
    ]
    ports = [
        onnx.helper.make_tensor_value_info("codes", onnx.TensorProto.INT8, [1, 16, 1, 8]),
        onnx.helper.make_tensor_value_info("result", onnx.TensorProto.FLOAT, [1, 2, 1, 1]),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", ports[:1], ports[1:], tensors))
    assert with_odd_kernels(model) == 1
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(weight[..., -1], np.broadcast_to(points.reshape(2, 1, 1), (2, 16, 1)))
    onnx.checker.check_model(model, full_check=True)
