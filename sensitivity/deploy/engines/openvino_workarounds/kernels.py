"""What OpenVINO computes wrongly on CPUs with AMX, written so that it computes it right: wide kernels, few channels.

AMX multiplies tiles of 64 bytes a row. Where a convolution has fewer channels (in a group) than fit into a row, oneDNN
of OpenVINO 2026.4.1 lays the columns of its kernel one behind the other. Where they fill several rows exactly, what it
computes has nothing to do with the right result: in int8 at most sizes of the image for 8x8 over 16 channels, at some
for 4x4 over 32 (patch embeddings, the reduced keys of PVT); in bf16 over half as many. No kernel of odd width does so.
One more column of zeros computes the same, and is right. ``benchmarks/openvino_convolutions.py`` tries many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sensitivity.deploy.engines.openvino_workarounds.weights import (
    ConvolutionWeight,
    attribute_of,
    convolution_weights,
    forget_shape,
)
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
    wrong = [weight for weight in convolution_weights(model.graph) if _fills_rows(weight, rest)]
    for weight in wrong:
        numbers = weight.numbers()
        column = np.broadcast_to(weight.zero, (*numbers.shape[:-1], 1)).astype(numbers.dtype)
        weight.replace(np.concatenate([numbers, column], axis=-1))
        for convolution in weight.convolutions:
            _widen(convolution, dimensions=numbers.ndim - 2)
        forget_shape(model.graph, weight)
    return len(wrong)


def _fills_rows(weight: ConvolutionWeight, rest: Rest) -> bool:
    """Whether AMX may compute convolutions with this weight wrongly."""
    paddings = [attribute_of(convolution, "auto_pad") for convolution in weight.convolutions]
    pads_by_itself = any(padding is not None and padding.s != b"NOTSET" for padding in paddings)
    if pads_by_itself or (rest == "fp32" and not weight.in_int8):
        return False
    row: int = weight.tensor.dims[1] * (1 if weight.in_int8 else _HALF_BYTES)
    width: int = weight.tensor.dims[-1]
    return row < _ROW_BYTES < row * width and row * width % _ROW_BYTES == 0


def _widen(convolution: Any, *, dimensions: int) -> None:
    """Let a convolution take a kernel that is one column wider, and pad one column more behind the last."""
    kernel, dilations = attribute_of(convolution, "kernel_shape"), attribute_of(convolution, "dilations")
    if kernel is not None:
        kernel.ints[-1] += 1
    pads = attribute_of(convolution, "pads")
    if pads is None:
        convolution.attribute.append(need("onnx", "openvino").helper.make_attribute("pads", [0] * 2 * dimensions))
        pads = convolution.attribute[-1]
    pads.ints[-1] += 1 if dilations is None else dilations.ints[-1]
