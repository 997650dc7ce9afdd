"""What OpenVINO computes wrongly, written so that it computes it right: quantization behind a concatenation.

OpenVINO 2026.4.1 stores the output of ``Concat`` in 8 bits where ``QuantizeLinear`` follows it and dense convolutions
read it, but rounds the real numbers there instead of their codes: the convolution reads whole numbers (8 to 20 dB on
small graphs, where ONNX Runtime has 140). Codes that are concatenated are the same codes, and are computed right.

They are written as uint8 with a zero point 128 higher. Left as int8 they reach the convolution as int8, for which
oneDNN halves the weights' codes on CPUs without VNNI, and loses a bit of them (30 dB).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sensitivity.deploy.engines.openvino_workarounds.weights import group_count
from sensitivity.deploy.packages import need

SHIFT = 128  # from int8 to uint8


def with_concatenated_codes(model: Any) -> int:
    """Quantize in front of every ``Concat`` what is quantized behind it for convolutions, in place.

    Only int8 and uint8 with one scale for the whole tensor are moved; other readers of the ``Concat`` keep it as it is.

    Args:
        model: ``onnx.ModelProto``.

    Returns:
        How many ``QuantizeLinear`` were moved.
    """
    graph = model.graph
    codes: dict[tuple[str, ...], str] = {}
    moved = 0
    while True:
        facts = _Facts(graph)
        behind = next((node for node in graph.node if facts.is_behind_a_concatenation(node)), None)
        if behind is None:
            _drop_unread(graph)
            return moved
        _move(graph, behind, facts, codes)
        moved += 1


class _Facts:
    """What makes and what reads each tensor of a graph.

    Attributes:
        makers: The node behind each tensor.
        readers: The nodes that read each tensor.
        constants: Initializers by name.
    """

    def __init__(self, graph: Any) -> None:
        self.makers: Mapping[str, Any] = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.constants: Mapping[str, Any] = {tensor.name: tensor for tensor in graph.initializer}

    def is_behind_a_concatenation(self, node: Any) -> bool:
        """Whether a node quantizes a concatenation as a whole, and convolutions or further ones read it."""
        if node.op_type != "QuantizeLinear" or len(node.input) != 3 or node.input[0] not in self.makers:
            return False
        scale, zero_point = (self.constants.get(name) for name in node.input[1:])
        if scale is None or zero_point is None or scale.dims or self.makers[node.input[0]].op_type != "Concat":
            return False
        types = need("onnx", "openvino").TensorProto
        if zero_point.data_type not in (types.INT8, types.UINT8):
            return False
        kinds = {reader.op_type for reader in self.readers.get(node.output[0], ())}
        if kinds == {"Concat"}:
            return True  # one within another, whose codes have been moved
        if kinds != {"DequantizeLinear"}:
            return False
        return any(
            reader.op_type == "Conv" and group_count(reader) == 1
            for restored in self.restored(node)
            for reader in self.readers.get(restored.output[0], ())
        )

    def restored(self, quantize: Any) -> list[Any]:
        """The ``DequantizeLinear`` behind a ``QuantizeLinear``."""
        return [node for node in self.readers.get(quantize.output[0], ()) if node.op_type == "DequantizeLinear"]


def _move(graph: Any, quantize: Any, facts: _Facts, codes: dict[tuple[str, ...], str]) -> None:
    """Write ``Concat(Quantize(a), Quantize(b))`` in the place of ``Quantize(Concat(a, b))``.

    Args:
        graph: What is changed.
        quantize: The node behind the concatenation.
        facts: Of the graph.
        codes: What has been quantized so far: source, scale and zero point to the tensor of its codes; added to.
    """
    make_node = need("onnx", "openvino").helper.make_node
    concatenation = facts.makers[quantize.input[0]]
    name, settings = quantize.name or quantize.output[0], (quantize.input[1], _unsigned(graph, quantize, facts))
    written: dict[str, Any] = {}
    for number, source in enumerate(concatenation.input):
        if (source, *settings) not in codes:
            codes[source, *settings] = f"{quantize.output[0]}/part{number}"
            output = [codes[source, *settings]]
            written[source] = make_node("QuantizeLinear", [source, *settings], output, name=f"{name}/part{number}")
    parts = [codes[source, *settings] for source in concatenation.input]
    joined = make_node("Concat", parts, list(quantize.output), name=f"{name}/joined")
    joined.attribute.extend(concatenation.attribute)
    for number in reversed(range(len(graph.value_info))):  # it tells their type, which may have been int8
        if graph.value_info[number].name in quantize.output:
            del graph.value_info[number]
    for restored in facts.restored(quantize):
        restored.input[2] = settings[1]
    nodes = [node for source, node in written.items() if source not in facts.makers]
    for node in graph.node:
        nodes += [joined if node is quantize else node, *(written[out] for out in node.output if out in written)]
    _replace_nodes(graph, nodes)


def _unsigned(graph: Any, quantize: Any, facts: _Facts) -> str:
    """The name of a zero point for the same codes as uint8; added to the graph where it is not there yet."""
    onnx = need("onnx", "openvino")
    zero_point = facts.constants[quantize.input[2]]
    if zero_point.data_type == onnx.TensorProto.UINT8:
        return str(quantize.input[2])
    name = f"{quantize.input[2]}/unsigned"
    if name not in facts.constants:
        shifted = onnx.numpy_helper.to_array(zero_point).astype(np.int16) + SHIFT
        graph.initializer.append(onnx.numpy_helper.from_array(shifted.astype(np.uint8), name))
    return name


def _drop_unread(graph: Any) -> None:
    """Remove concatenations that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {port.name for port in graph.output}
        remaining = [node for node in graph.node if node.op_type != "Concat" or read.intersection(node.output)]
        if len(remaining) == len(graph.node):
            return
        _replace_nodes(graph, remaining)


def _replace_nodes(graph: Any, nodes: Sequence[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
