"""Chains of linear layers that OpenVINO fuses into one operation, and computes wrongly where they are quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto

_QUANTIZED = "DequantizeLinear"


def holds_quantized_chain(graph: GraphProto) -> bool:
    """Whether a graph may hold linear layers behind each other on inputs (N, C), some quantized, some without a bias.

    OpenVINO 2026.4.1 fuses such a chain ("Subgraph"), runs all of it in float, and where a layer has no bias the output
    is what happened to be in memory. Where all have one the output is right, and ``verify`` says what runs in float:
    such a graph is left alone. Exported, these layers are ``Gemm``; on inputs of more axes they are ``MatMul``, which
    it runs in int8 and right. Two that do not follow each other count as well: finding out is not worth its code.

    Args:
        graph: With Q/DQ; weights are not looked at.
    """
    writers = {name: node.op_type for node in graph.node for name in node.output}
    linear = [node for node in graph.node if node.op_type == "Gemm"]
    quantized = [node for node in linear if all(writers.get(name) == _QUANTIZED for name in node.input[:2])]
    biased = all(len(node.input) > 2 and node.input[2] for node in linear)
    return len(linear) > 1 and bool(quantized) and not biased
