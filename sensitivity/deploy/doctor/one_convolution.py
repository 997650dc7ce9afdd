"""One convolution in int8 whose exact result is known: what does an engine make of it?"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sensitivity.contracts import RunsGraph
from sensitivity.deploy.engines.inputs import Array
from sensitivity.deploy.packages import need
from sensitivity.errors import EngineError, ExportError

INPUTS, OUTPUTS, SIDE = 64, 32, 8

STEP, WEIGHT_STEP = 2.0**-5, 2.0**-7
"""Powers of two, so that rounding plays no part: results in float are exact as well."""

GENTLE, WHOLE = 63, 127
"""Largest weight codes. With the first no two products overflow 16 bits: 2 * 255 * 63 < 2**15, where activations are
shifted to 0 ... 255 as CPUs do. With the second they do, and an instruction that adds pairs in 16 bits saturates."""


def codes(largest_weight: int) -> tuple[Array, Array, Array]:
    """Activation codes (1, I, S, S), weight codes (O, I), and the convolution's exact sums (1, O, S, S)."""
    random = np.random.default_rng(0)
    x = random.integers(-128, 128, (1, INPUTS, SIDE, SIDE))
    x[..., 0, 0], x[..., 0, 1] = 127, -128
    weights = random.integers(-largest_weight, largest_weight + 1, (OUTPUTS, INPUTS))
    weights[0], weights[1] = largest_weight, -largest_weight
    return x, weights, np.einsum("oi,nihw->nohw", weights, x)


def graph(weights: Array, extra: str) -> bytes:
    """An ONNX file: the convolution ``conv`` of 1x1 with Q/DQ at its input and int8 weights.

    Args:
        weights: (O, I) codes.
        extra: Extra that brings the package onnx.

    Raises:
        MissingPackageError: If it is not installed.
    """
    onnx = need("onnx", extra)
    node, constant, info = onnx.helper.make_node, onnx.numpy_helper.from_array, onnx.helper.make_tensor_value_info
    kernel = weights.reshape(OUTPUTS, INPUTS, 1, 1).astype(np.int8)
    constants = [
        constant(np.float32(STEP), "step"),
        constant(np.int8(0), "zero"),
        constant(np.full(OUTPUTS, WEIGHT_STEP, np.float32), "weight_steps"),
        constant(np.zeros(OUTPUTS, np.int8), "weight_zeros"),
        constant(kernel, "weight"),
    ]
    nodes = [
        node("QuantizeLinear", ["x", "step", "zero"], ["codes"], "quantize"),
        node("DequantizeLinear", ["codes", "step", "zero"], ["values"], "dequantize"),
        node("DequantizeLinear", ["weight", "weight_steps", "weight_zeros"], ["kernel"], "weight_dequantize", axis=0),
        node("Conv", ["values", "kernel"], ["y"], "conv"),
    ]
    ports = [info(name, onnx.TensorProto.FLOAT, [1, n, SIDE, SIDE]) for name, n in (("x", INPUTS), ("y", OUTPUTS))]
    made = onnx.helper.make_graph(nodes, "one convolution", ports[:1], ports[1:], constants)
    opsets = [onnx.helper.make_opsetid("", 17)]
    return bytes(onnx.helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString())


@dataclass(frozen=True, slots=True)
class ConvolutionTrial:
    """What an engine made of the convolution with weight codes up to 127; smaller ones it computed exactly.

    Attributes:
        precision: What the engine says that it ran the convolution in; None where it does not tell.
        largest_error: Largest error of a sum, in products of codes.
        largest_sum: Largest exact sum.
    """

    precision: str | None
    largest_error: float
    largest_sum: float

    @property
    def exact(self) -> bool:
        """Whether every sum is right."""
        return self.largest_error <= 1

    @property
    def saturates(self) -> bool:
        """Whether int8 runs as int8 and large sums of products are cut off, as on a CPU without VNNI."""
        return self.precision == "int8" and not self.exact

    def __str__(self) -> str:
        error = f"off by up to {self.largest_error / self.largest_sum:.0%} of the largest"
        if self.precision != "int8":
            precision = self.precision or "a precision that it does not tell"
            sums = "exact" if self.exact else error
            return f"runs int8 layers in {precision}, sums {sums} (checked on one convolution)"
        if self.saturates:
            return (
                f"runs int8 as int8 but saturates: large sums are {error}, as on a CPU without VNNI, and codes differ "
                "from the simulation unless weights have 7 bits (checked on one convolution)"
            )
        return "runs int8 as int8, sums exact (checked on one convolution)"


def try_engine(build: Callable[[bytes], RunsGraph], extra: str) -> ConvolutionTrial:
    """Run the convolution and compare it with numpy.

    Args:
        build: Makes the engine of an ONNX file's bytes.
        extra: Extra that brings what is needed for it.

    Raises:
        EngineError: If it computes something else, where nothing can saturate.
        EngineBuildError: If it cannot be built.
        MissingPackageError: If a package is not installed.
    """
    small = _run(build, GENTLE, extra)
    if not small.exact:
        raise EngineError(
            f"one convolution with Q/DQ is wrong: sums of int8 products are off by up to {small.largest_error:.0f}, "
            f"where the largest is {small.largest_sum:.0f}. Run `sensitivity verify` before relying on this engine."
        )
    return _run(build, WHOLE, extra)


def _run(build: Callable[[bytes], RunsGraph], largest_weight: int, extra: str) -> ConvolutionTrial:
    x, weights, expected = codes(largest_weight)
    engine = build(graph(weights, extra))
    (output,) = engine.run((x * STEP).astype(np.float32))
    error = np.abs(np.asarray(output, np.float64) / (STEP * WEIGHT_STEP) - expected).max()
    precisions = {node: layer.precision for layer in engine.layer_info() for node in layer.nodes}
    return ConvolutionTrial(precisions.get("conv"), float(error), float(np.abs(expected).max()))


def try_simulation(torch: Any) -> None:
    """The same convolution in PyTorch, fake-quantized.

    Raises:
        EngineError: If it is not exact.
    """
    x, weights, expected = codes(WHOLE)
    values = torch.fake_quantize_per_tensor_affine(torch.tensor(x * STEP).float(), STEP, 0, -128, 127)
    kernel = torch.tensor(weights * WEIGHT_STEP).float().reshape(OUTPUTS, INPUTS, 1, 1)
    with torch.no_grad():
        sums = torch.nn.functional.conv2d(values, kernel).double().numpy() / (STEP * WEIGHT_STEP)
    error = np.abs(sums - expected).max()
    if error > 1:
        raise EngineError(
            f"one fake-quantized convolution is off by up to {error:.0f} products, and is exact in numpy."
        )


def try_export(torch: Any) -> None:
    """Export one convolution to ONNX.

    Raises:
        ExportError: If the graph does not hold it.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = (torch.zeros(1, INPUTS, SIDE, SIDE),)
            module = torch.nn.Conv2d(INPUTS, OUTPUTS, 1).eval()
            program = torch.onnx.export(module, example, dynamo=True, optimize=False, verbose=False)
    finally:
        logger.setLevel(level)
    operators = [node.op_type for node in program.model_proto.graph.node]
    if "Conv" not in operators:
        raise ExportError(f"torch.onnx.export gave {', '.join(operators) or 'nothing'} for one convolution.")
