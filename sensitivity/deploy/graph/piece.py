"""A piece of a graph between tensors whose numbers are known: cut out, to be run by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensitivity.deploy.graph.copies import swept, without_weights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_EVALUATED_FROM = 19
"""First opset whose ``DequantizeLinear`` the reference computes; int8 and uint8 mean the same before and after."""

Arrays = Mapping[str, npt.NDArray[Any]]
"""Numbers of tensors by name."""


def nodes_between(graph: ModelProto, known: Collection[str], end: str) -> tuple[list[NodeProto], tuple[str, ...]]:
    """The nodes that a tensor depends on, back to tensors that are known.

    Args:
        graph: A graph whose nodes are in the order in which they are computed.
        known: Names of tensors at which to stop.
        end: The tensor.

    Returns:
        The nodes in that order, without those that read constants alone, and the known tensors that they read.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    waiting, needed, entries = [end], set(), []
    while waiting:
        name = waiting.pop()
        if name in needed or name not in makers:
            continue
        needed.add(name)
        for source in makers[name].input:
            if source in known:
                entries.append(source)
            else:
                waiting.append(source)
    varying = set(entries)
    nodes = []
    for node in graph.graph.node:
        if needed & set(node.output) and varying & set(node.input):
            varying |= set(node.output)
            nodes.append(node)
    return nodes, tuple(dict.fromkeys(entries))


def read_from(nodes: Sequence[NodeProto], known: Collection[str]) -> tuple[str, ...]:
    """The known tensors that some nodes read."""
    return tuple(dict.fromkeys(name for node in nodes for name in node.input if name in known))


def cut_piece(graph: ModelProto, entries: Arrays, ends: Sequence[str]) -> ModelProto:
    """The graph from some tensors to others.

    Args:
        graph: Not changed.
        entries: The tensors that become inputs, with numbers that tell type and shape.
        ends: The tensors that become outputs.
    """
    import onnx

    piece = without_weights(graph)
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    ports = {port.name: port for port in (*inferred.value_info, *inferred.output)}
    nodes = [node for node in piece.graph.node if not set(entries) & set(node.output)]
    for field in (piece.graph.node, piece.graph.input, piece.graph.output, piece.graph.value_info):
        del field[:]
    piece.graph.node.extend(nodes)
    for name, numbers in entries.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.asarray(numbers).dtype)
        piece.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, list(np.shape(numbers))))
    piece.graph.output.extend(ports.get(name) or onnx.ValueInfoProto(name=name) for name in ends)
    return swept(piece, initializers=graph.graph.initializer)


def as_onnx_defines(piece: ModelProto, entries: Arrays) -> Arrays:
    """The outputs of a piece as the ``onnx`` package itself computes them, by name.

    Args:
        piece: What ``cut_piece`` returned.
        entries: The numbers of its inputs.

    Raises:
        NotImplementedError: If it holds an operator that the package does not compute.
        RuntimeError: If it fails otherwise.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    newer = onnx.ModelProto()
    newer.CopyFrom(piece)
    for opset in newer.opset_import:
        if not opset.domain:
            opset.version = max(opset.version, _EVALUATED_FROM)
    names = [port.name for port in piece.graph.output]
    outputs: Any = ReferenceEvaluator(newer).run(names, dict(entries))
    return dict(zip(names, outputs, strict=True))
