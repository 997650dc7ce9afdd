"""Copies of graphs that take no more memory than what they hold.

protobuf gives memory back for a whole message and never for a part of it: a copy of a graph from which all weights but
one were deleted still takes the memory of all. So such a copy is written anew, from what it shall hold. Where memory
runs out in protobuf, the whole process ends with signal 11.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto


def without_weights(model: ModelProto) -> ModelProto:
    """A copy of a graph in which initializers have their names alone."""
    import onnx

    names = [onnx.TensorProto(name=tensor.name) for tensor in model.graph.initializer]
    return _written(model, model.graph.node, names)


def swept(
    model: ModelProto, keep: Iterable[str] = (), *, initializers: Iterable[TensorProto] | None = None
) -> ModelProto:
    """A copy of a graph without the nodes and initializers that no output depends on.

    Args:
        model: Not changed.
        keep: Further tensors that are needed.
        initializers: Those to choose from; None for the graph's own.
    """
    graph = model.graph
    needed = {output.name for output in graph.output} | set(keep)
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input) | _read_inside(node)
    nodes = [node for node in graph.node if needed & set(node.output)]
    weights = graph.initializer if initializers is None else initializers
    return _written(model, nodes, [tensor for tensor in weights if tensor.name in needed])


def _written(model: ModelProto, nodes: Iterable[NodeProto], initializers: Iterable[TensorProto]) -> ModelProto:
    """A new graph like another one, of these nodes and initializers."""
    import onnx

    copied = onnx.ModelProto()
    _fill(copied, model, but=("graph",))
    _fill(copied.graph, model.graph, but=("node", "initializer"))
    copied.graph.node.extend(nodes)
    copied.graph.initializer.extend(initializers)
    return copied


def _fill(message: Any, source: Any, *, but: tuple[str, ...]) -> None:
    """Copy all fields of a message into an empty one of its kind, ``but`` those."""
    for field, value in source.ListFields():
        if field.name in but:
            continue
        if hasattr(value, "extend"):
            getattr(message, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)


def _read_inside(node: NodeProto) -> set[str]:
    """What the subgraphs of a node (the branches of an ``If``) read, values of the graph around them among it."""
    inside = [
        inner for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) for inner in graph.node
    ]
    outputs = {output.name for attribute in node.attribute if attribute.HasField("g") for output in attribute.g.output}
    return outputs.union(*(set(inner.input) | _read_inside(inner) for inner in inside))
