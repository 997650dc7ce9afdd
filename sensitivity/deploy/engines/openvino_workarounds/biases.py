"""What OpenVINO computes wrongly, written so that it computes it right: convolutions without bias, read several times.

OpenVINO 2026.4.1 moves the scale of such a quantized convolution into the ``QuantizeLinear`` of the next layer, and
leaves it in front of the other readers. Where the sizes of images may change, or ``SNIPPETS_MODE`` is ``DISABLE``, it
then multiplies the convolution's own output by the scale as well: the next layer reads numbers that were scaled twice,
which are mostly 0 (FPNs of torchvision at their first weights, 0 dB). A bias that is not 0 holds the scale back.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from sensitivity.deploy.engines.openvino_workarounds.weights import group_count
from sensitivity.deploy.packages import need
from sensitivity.records.recipes.scheme import Rest

_CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}
"""Operators, and the axis of the weight that counts output channels (of one group)."""

_SMALLEST_HALF = 2.0**-24
_TINY = 2.0**-60
"""Biases that change no number but 0; in fp16 the smaller one would be 0 again."""


def with_lasting_biases(model: Any, rest: Rest = "fp32") -> int:
    """Give quantized convolutions with several readers a tiny bias in the place of none or of zeros, in place.

    Args:
        model: ``onnx.ModelProto``.
        rest: What OpenVINO computes the bias in.

    Returns:
        How many convolutions got one.
    """
    numpy_helper, graph = need("onnx", "openvino").numpy_helper, model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    readers = Counter([name for node in graph.node for name in node.input] + [port.name for port in graph.output])
    changed = 0
    for node in graph.node:
        data, weight, bias = (*node.input, "", "", "")[:3]
        codes = constants.get(dequantized.get(weight, ""))
        if node.op_type not in _CONVOLUTIONS or data not in dequantized or codes is None or readers[node.output[0]] < 2:
            continue
        if bias and (bias not in constants or numpy_helper.to_array(constants[bias]).any()):
            continue
        channels = codes.dims[_CONVOLUTIONS[node.op_type]] * (
            group_count(node) if node.op_type == "ConvTranspose" else 1
        )
        tiny = np.full(channels, _SMALLEST_HALF if rest == "fp16" else _TINY, np.float32)
        graph.initializer.append(numpy_helper.from_array(tiny, f"{node.output[0]}/tiny_bias"))
        node.input[:] = [data, weight, f"{node.output[0]}/tiny_bias"]
        changed += 1
    return changed
