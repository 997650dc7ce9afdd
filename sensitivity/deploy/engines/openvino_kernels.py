"""What OpenVINO computes wrongly on CPUs with AMX, written so that it computes it right: wide kernels, few channels.

AMX multiplies tiles of 64 bytes a row. Where a convolution has fewer channels (in a group) than fit into a row, oneDNN
of OpenVINO 2026.4.1 lays the columns of its kernel one behind the other. Where they fill several rows exactly, what it
computes has nothing to do with the right result (-3 to 3 dB): in int8 for 4x4 over 32 or 48 channels and 8x8 over 16 to
56, with any stride (patch embeddings, the reduced keys of PVT); in bf16 over half as many. No kernel of odd width does
so. One more column of zeros computes the same, and is right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from sensitivity.deploy.packages import need
from sensitivity.records.recipes.scheme import Rest

_ROW_BYTES = 64
_HALF_BYTES = 2
"""Of a number in bf16 or fp16."""


def with_odd_kernels(model: Any, rest: Rest = "fp32") -> int:
    """Give convolutions whose kernel fills rows of AMX tiles one more column, of zeros, in place.

    Args:
        model: ``onnx.ModelProto``.
        rest: What OpenVINO computes convolutions in that are not quantized.

    Returns:
        How many weights got one.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dequantizers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    changed = 0
    for name in [*constants, *dequantizers]:
        dequantizer = dequantizers.get(name)
        codes = constants.get(name if dequantizer is None else dequantizer.input[0])
        if codes is None or not readers[name] or (dequantizer is not None and len(readers[codes.name]) > 1):
            continue
        if all(_fills_rows(node, name, codes, dequantizers, rest) for node in readers[name]):
            _add_column(codes, _zero(dequantizer, constants))
            for convolution in readers[name]:
                _widen(convolution, dimensions=len(codes.dims) - 2)
            for stale in [value for value in graph.value_info if value.name == name]:  # the weight's old shape
                graph.value_info.remove(stale)
            changed += 1
    return changed


def _fills_rows(node: Any, weight: str, codes: Any, dequantizers: Mapping[str, Any], rest: Rest) -> bool:
    """Whether an operator is a convolution with this weight that AMX may compute wrongly."""
    if node.op_type != "Conv" or node.input[1] != weight:
        return False
    in_int8 = weight in dequantizers and node.input[0] in dequantizers
    pads_by_itself = any(
        attribute.name == "auto_pad" and attribute.s not in (b"NOTSET", b"") for attribute in node.attribute
    )
    if pads_by_itself or (rest == "fp32" and not in_int8):
        return False
    row: int = codes.dims[1] * (1 if in_int8 else _HALF_BYTES)
    width: int = codes.dims[-1]
    return row < _ROW_BYTES < row * width and row * width % _ROW_BYTES == 0


def _zero(dequantizer: Any, constants: Mapping[str, Any]) -> Any:
    """The code of 0 in a weight: one for all, or one for each output channel."""
    if dequantizer is None or not dequantizer.input[2:]:
        return np.zeros(1)
    return need("onnx", "openvino").numpy_helper.to_array(constants[dequantizer.input[2]]).reshape(-1)


def _add_column(codes: Any, zero: Any) -> None:
    numpy_helper = need("onnx", "openvino").numpy_helper
    weight = numpy_helper.to_array(codes)
    column = np.broadcast_to(zero.reshape(-1, *[1] * (weight.ndim - 1)), (*weight.shape[:-1], 1))
    wider = np.concatenate([weight, column.astype(weight.dtype)], axis=-1)
    codes.CopyFrom(numpy_helper.from_array(wider, codes.name))


def _widen(convolution: Any, *, dimensions: int) -> None:
    """Let a convolution take a kernel that is one column wider, and pad one column more behind the last."""
    attributes = {attribute.name: attribute for attribute in convolution.attribute}
    if "kernel_shape" in attributes:
        attributes["kernel_shape"].ints[-1] += 1
    if "pads" not in attributes:
        made = need("onnx", "openvino").helper.make_attribute("pads", [0] * 2 * dimensions)
        convolution.attribute.append(made)
        attributes["pads"] = convolution.attribute[-1]
    dilation = attributes["dilations"].ints[-1] if "dilations" in attributes else 1
    attributes["pads"].ints[-1] += dilation
