"""Single int8 convolutions on OpenVINO against exact integers: which come out wrong, by itself and as written here.

    OMP_NUM_THREADS=1 python -m benchmarks.openvino_convolutions [--quick]

Each graph is one convolution of uint8 codes with int8 weights, between quantizers. OpenVINO by itself compiles it as it
is; ``OpenVinoEngine`` rewrites what is known to go wrong. One is wrong if its output differs from the exact result by
more than 5 % of the largest value. ``ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI`` shows a CPU without AMX. Prints, for square
kernels and for groups behind a zero point, how many of the image sizes and strides (or output channels) are wrong.
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

import numpy as np
import onnx
import openvino
import torch
from onnx import helper, numpy_helper

from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine

SIZES = (7, 14, 24, 28, 33)
WRONG = 0.05
SCALE = np.float32(0.02)


def wrong_of(
    channels: tuple[int, int], kernel: int, stride: int, padding: int, side: int, groups: int = 1, zero_point: int = 0
) -> list[bool]:
    """Whether OpenVINO by itself is wrong, and whether the engine of this library is.

    Args:
        channels: Read and written.
        kernel: Side of the kernel.
        stride: In both directions.
        padding: On all sides.
        side: Of the image.
        groups: Of the channels.
        zero_point: Of the codes.
    """
    draw = np.random.default_rng(0)
    weight = draw.integers(-127, 128, (channels[1], channels[0] // groups, kernel, kernel), dtype=np.int8)
    codes = draw.integers(0, 256, (1, channels[0], side, side))
    real, exact_weight = torch.from_numpy((codes - zero_point) * float(SCALE)), torch.from_numpy(weight * float(SCALE))
    exact = torch.nn.functional.conv2d(real, exact_weight, None, stride, padding, 1, groups).numpy()
    model = _graph(weight, real.shape, zero_point, stride, padding, groups).SerializeToString()
    image = real.numpy().astype(np.float32)
    alone = openvino.Core().compile_model(openvino.Core().read_model(model), "CPU", {"INFERENCE_NUM_THREADS": 1})
    outputs = [alone({0: image})[0], OpenVinoEngine(model, threads=1).run(image)[0]]
    return [bool(np.abs(output - exact).max() > WRONG * np.abs(exact).max()) for output in outputs]


def _graph(weight: Any, shape: Any, zero_point: int, stride: int, padding: int, groups: int) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["image", "scale", "zero_point"], ["codes"]),
        node("DequantizeLinear", ["codes", "scale", "zero_point"], ["read"]),
        node("DequantizeLinear", ["weight", "scale", "weight_zero"], ["weights"]),
        node("Conv", ["read", "weights"], ["result"], strides=[stride] * 2, pads=[padding] * 4, group=groups),
    ]
    constants = {"scale": SCALE, "zero_point": np.uint8(zero_point), "weight": weight, "weight_zero": np.int8(0)}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ports = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size)
        for name, size in {"image": shape, "result": None}.items()
    ]
    graph = helper.make_graph(nodes, "convolution", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _row(name: str, cases: list[tuple[Any, ...]]) -> str:
    alone, written = (sum(column) for column in zip(*(wrong_of(*case) for case in cases), strict=True))
    return f"| {name} | {len(cases)} | {alone} | {written} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few kernels and groups alone")
    quick = parser.parse_args().quick
    print("| convolution | tried | wrong by itself | wrong as written here |\n|---|---|---|---|")
    kernels = (4, 8) if quick else (2, 3, 4, 5, 6, 7, 8, 12, 16)
    for kernel, channels in product(kernels, (16, 32) if quick else (8, 16, 24, 32, 48, 64)):
        cases: list[tuple[Any, ...]] = [
            ((channels, 32), kernel, stride, padding, side)
            for stride, padding, side in product(sorted({1, 2, kernel}), (0, 1), SIZES)
            if side + 2 * padding >= kernel
        ]
        print(_row(f"{kernel}x{kernel} over {channels} channels", cases), flush=True)
    for kernel, reads in product((3, 5), (24,) if quick else (8, 12, 16, 20, 24, 28, 32, 48)):
        cases = [
            ((4 * reads, 4 * writes), kernel, stride, kernel // 2, side, 4, 20)
            for writes, stride, side in product((8, 16, 24, 48), (1, 2), SIZES)
        ]
        name = f"{kernel}x{kernel}, 4 groups of {reads} channels, zero point 20"
        print(_row(name, cases), flush=True)


if __name__ == "__main__":
    main()
