"""A small ONNX model with explicit Q/DQ, written by hand: conv, ReLU, conv, both in int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIDE = 32, 16
WEIGHT_STEP, ACTIVATION_STEP = 0.01, 0.03


def conv_relu_conv(*, batch: int | None = 1, seed: int = 0) -> bytes:
    """Serialized model ``x`` (N, 32, 16, 16) to ``y`` of the same shape; batch None is a dynamic one."""
    random = np.random.default_rng(seed)
    constants: list[Any] = [
        numpy_helper.from_array(np.float32(ACTIVATION_STEP), "step"),
        numpy_helper.from_array(np.int8(0), "zero"),
        numpy_helper.from_array(np.full(CHANNELS, WEIGHT_STEP, np.float32), "weight_steps"),
        numpy_helper.from_array(np.zeros(CHANNELS, np.int8), "weight_zeros"),
    ]
    nodes: list[Any] = []
    value = "x"
    for conv in ("conv1", "conv2"):
        codes = random.integers(-127, 128, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
        constants.append(numpy_helper.from_array(codes, f"{conv}.weight"))
        constants.append(numpy_helper.from_array(random.normal(size=CHANNELS).astype(np.float32), f"{conv}.bias"))
        nodes += [
            helper.make_node("QuantizeLinear", [value, "step", "zero"], [f"{conv}.codes"], f"{conv}.quantize"),
            helper.make_node(
                "DequantizeLinear", [f"{conv}.codes", "step", "zero"], [f"{conv}.in"], f"{conv}.dequantize"
            ),
            helper.make_node(
                "DequantizeLinear",
                [f"{conv}.weight", "weight_steps", "weight_zeros"],
                [f"{conv}.weight_values"],
                f"{conv}.weight_dequantize",
                axis=0,
            ),
            helper.make_node(
                "Conv",
                [f"{conv}.in", f"{conv}.weight_values", f"{conv}.bias"],
                [f"{conv}.out"],
                conv,
                pads=[1, 1, 1, 1],
            ),
        ]
        value = f"{conv}.out"
        if conv == "conv1":
            nodes.append(helper.make_node("Relu", [value], ["relu.out"], "relu"))
            value = "relu.out"
    shape = ["N" if batch is None else batch, CHANNELS, SIDE, SIDE]
    nodes.append(helper.make_node("Identity", [value], ["y"], "out"))
    graph = helper.make_graph(
        nodes,
        "conv_relu_conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
