"""Circular padding, which OpenVINO cannot read, and the engines that run it in int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import sensitivity as sv
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.deploy.engines.openvino_workarounds.pads import with_pieces_for_circular_pads
from tests.deploy.nets import SAFE, SAFE_INT8


def padded(amounts: list[int], axes: list[int] | None) -> onnx.ModelProto:
    """A graph that pads ``x`` (1, 2, N, M) around, M and N of any length."""
    constants = {"amounts": amounts} | ({"axes": axes} if axes else {})
    initializers = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in constants.items()]
    inputs = ["x", "amounts", *(["", "axes"] if axes else [])]
    node = helper.make_node("Pad", inputs, ["y"], name="pad", mode="wrap")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, None, None]) for name in "xy"]
    graph = helper.make_graph([node], "padded", ports[:1], ports[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize(
    ("amounts", "axes", "wanted"),
    [
        ([0, 0, 1, 2, 0, 0, 3, 0], None, ((1, 3), (2, 0))),
        ([2, 1], [3], ((0, 0), (2, 1))),
        ([0, 2, 0, 0], [2, 3], ((0, 0), (2, 0))),
    ],
)
def test_pieces_are_what_numpy_wraps_around(
    amounts: list[int], axes: list[int] | None, wanted: tuple[tuple[int, int], ...]
) -> None:
    image = np.arange(40, dtype=np.float32).reshape(1, 2, 4, 5)
    (computed,) = OpenVinoEngine(padded(amounts, axes).SerializeToString()).run(image)
    assert np.array_equal(computed, np.pad(image, ((0, 0), (0, 0), *wanted), mode="wrap"))


def test_what_is_cut_off_is_left_as_it_is() -> None:
    graph = padded([-1, 1], [3])
    assert with_pieces_for_circular_pads(graph) == 0
    assert [node.op_type for node in graph.graph.node] == ["Pad"]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime-int8"])
def test_convolutions_with_circular_padding_run_in_int8_and_are_verified(engine: str) -> None:
    torch.manual_seed(0)
    around = {"padding": (1, 2), "padding_mode": "circular"}
    net = nn.Sequential(nn.Conv2d(3, 8, 3, **around), nn.ReLU(), nn.Conv2d(8, 8, 3, **around))  # type: ignore[arg-type]
    wrapped = sv.wrap(net.eval(), torch.randn(1, 3, 9, 8))
    wrapped.calibrate(torch.randn(2, 3, 9, 8), SAFE_INT8)
    record = wrapped.verify(wrapped.deploy(SAFE, engine, threads=1))
    assert {(check.executed, str(check.status)) for check in record.layers} == {("int8", "verified")}
    assert record.passed
