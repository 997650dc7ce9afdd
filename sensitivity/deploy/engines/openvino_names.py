"""Which nodes of an ONNX graph an operation of OpenVINO's execution graph computes.

OpenVINO keeps the names of the nodes that it fused into an operation, but gives them up where it rewrites one: a
convolution that is multiplied by a constant (a layer scale, a norm written as functions) becomes ``Multiply_41785``.
The names of what it is multiplied by and of what stands behind it remain, and lead back to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sensitivity.contracts import EngineLayer
from sensitivity.deploy.graph.multipliers import MULTIPLIERS

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


_TRANSPOSED = "/transpose_b"


class GraphNames:
    """The names of an ONNX graph, traced back to the nodes that multiply.

    Args:
        graph: Its nodes are in the order in which they are computed, as ONNX demands.
    """

    def __init__(self, graph: GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        constants = {tensor.name for tensor in graph.initializer}
        roots: dict[str, str] = {}
        self._roots: dict[str, str] = {}
        self._multipliers = {node.name for node in graph.node if node.op_type in MULTIPLIERS}
        for node in graph.node:
            read = {name for name in node.input if name and name not in constants}
            if not read:
                constants.update(node.output)
            root = node.name if node.op_type in MULTIPLIERS else roots.get(next(iter(read))) if len(read) == 1 else None
            if root is not None:
                roots |= dict.fromkeys(node.output, root)
                self._roots[node.name] = root
        self._roots |= {output.name: roots[output.name] for output in graph.output if output.name in roots}
        self._twins = self._found_twins(graph)
        self._readers = self._readers_of_weights(graph)

    def completed(self, layers: Sequence[EngineLayer], multiplying: Mapping[str, Sequence[str]]) -> list[EngineLayer]:
        """The operations, with the nodes that they compute and do not name.

        An operation that multiplies, and names no node that does, computes the one that multiplies by the same weight,
        or else the one that everything it names depends on alone. Of two nodes that compute the same from the same,
        OpenVINO runs one.

        Args:
            layers: Operations under the names of the graph's nodes.
            multiplying: Names of those that are a convolution or a matrix product, with the names of what they multiply
                by; none of these where that is no constant.
        """
        named = {node for layer in layers for node in layer.nodes}
        completed_layers = []
        for layer in layers:
            nodes = layer.nodes
            if layer.name in multiplying and not self._multipliers & set(nodes):
                behind = {self._roots[name] for name in nodes if name in self._roots}
                roots = (self._reader_of(multiplying[layer.name]) or behind) - named
                nodes = (*nodes, *roots) if len(roots) == 1 else nodes
            twins = [twin for node in nodes for twin in self._twins.get(node, ()) if twin not in named]
            completed_layers.append(replace(layer, nodes=(*nodes, *twins)))
        return completed_layers

    def _reader_of(self, weight: Sequence[str]) -> set[str]:
        """The one node that multiplies by a weight; nothing where several do, or none is known to.

        OpenVINO calls a weight that it transposes by the node that reads it.
        """
        named = {name.removesuffix(_TRANSPOSED) for name in weight if name.endswith(_TRANSPOSED)} & self._multipliers
        readers = named or {node for name in weight for node in self._readers.get(name, ())}
        return readers if len(readers) == 1 else set()

    def _readers_of_weights(self, graph: GraphProto) -> dict[str, list[str]]:
        """For each initializer the nodes that multiply by it, as it is or dequantized."""
        readers: dict[str, list[str]] = {}
        for node in graph.node:
            for name in node.input[:2] if node.op_type in MULTIPLIERS else ():
                maker = self._makers.get(name)
                is_dequantized = maker is not None and maker.op_type == "DequantizeLinear"
                readers.setdefault(maker.input[0] if maker is not None and is_dequantized else name, []).append(
                    node.name
                )
        return readers

    def _found_twins(self, graph: GraphProto) -> dict[str, list[str]]:
        groups: dict[object, list[str]] = {}
        for node in graph.node:
            if node.op_type in MULTIPLIERS:
                groups.setdefault(self._content(node), []).append(node.name)
        return {name: [twin for twin in names if twin != name] for names in groups.values() for name in names}

    def _content(self, node: NodeProto) -> object:
        """What a node computes: equal for nodes that compute the same."""
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        return node.op_type, tuple(self._source(name) for name in node.input), tuple(attributes)

    def _source(self, name: str) -> object:
        maker = self._makers.get(name)
        return tuple(maker.input) if maker is not None and maker.op_type == "DequantizeLinear" else name
