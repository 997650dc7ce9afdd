"""What OpenVINO computes wrongly, written so that it computes it right: quantization behind a concatenation.

OpenVINO 2026.4.1 stores the output of ``Concat`` in 8 bits where ``QuantizeLinear`` follows it and only convolutions
read it, but rounds the real numbers there instead of their codes: the convolution reads whole numbers (8 to 20 dB on
small graphs, where ONNX Runtime has 140). Codes that are concatenated are the same codes, and are computed right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sensitivity.deploy.packages import need


def with_concatenated_codes(model: Any) -> int:
    """Quantize in front of every ``Concat`` what is quantized behind it, in place.

    Only pairs with one scale for the whole tensor are moved; other readers of the ``Concat`` keep it as it is.

    Args:
        model: ``onnx.ModelProto``.

    Returns:
        How many ``QuantizeLinear`` were moved.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    codes: dict[tuple[str, ...], str] = {}
    moved = 0
    while True:
        makers = {output: node for node in graph.node for output in node.output}
        behind = next((node for node in graph.node if _quantizes_a_concatenation(node, makers, constants)), None)
        if behind is None:
            _drop_unread(graph)
            return moved
        _move(graph, behind, makers[behind.input[0]], codes)
        moved += 1


def _quantizes_a_concatenation(node: Any, makers: Mapping[str, Any], constants: Mapping[str, Any]) -> bool:
    if node.op_type != "QuantizeLinear" or node.input[0] not in makers:
        return False
    scale = constants.get(node.input[1])
    whole = scale is not None and len(scale.dims) == 0
    return whole and makers[node.input[0]].op_type == "Concat"


def _move(graph: Any, quantize: Any, concatenation: Any, codes: dict[tuple[str, ...], str]) -> None:
    """Write ``Concat(Quantize(a), Quantize(b))`` in the place of ``Quantize(Concat(a, b))``.

    Args:
        graph: What is changed.
        quantize: The node behind the concatenation.
        concatenation: The node that it reads.
        codes: What has been quantized so far: source, scale and zero point to the tensor of its codes; added to.
    """
    make_node = need("onnx", "openvino").helper.make_node
    name, settings = quantize.name or quantize.output[0], tuple(quantize.input[1:])
    written: dict[str, Any] = {}
    for number, source in enumerate(concatenation.input):
        if (source, *settings) not in codes:
            codes[source, *settings] = f"{quantize.output[0]}/part{number}"
            output = [codes[source, *settings]]
            written[source] = make_node("QuantizeLinear", [source, *settings], output, name=f"{name}/part{number}")
    parts = [codes[source, *settings] for source in concatenation.input]
    joined = make_node("Concat", parts, list(quantize.output), name=f"{name}/joined")
    joined.attribute.extend(concatenation.attribute)
    made = {output for node in graph.node for output in node.output}
    nodes = [node for source, node in written.items() if source not in made]
    for node in graph.node:
        nodes += [joined if node is quantize else node, *(written[out] for out in node.output if out in written)]
    _replace_nodes(graph, nodes)


def _drop_unread(graph: Any) -> None:
    """Remove concatenations that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {port.name for port in graph.output}
        kept = [node for node in graph.node if node.op_type != "Concat" or read.intersection(node.output)]
        if len(kept) == len(graph.node):
            return
        _replace_nodes(graph, kept)


def _replace_nodes(graph: Any, nodes: Sequence[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
