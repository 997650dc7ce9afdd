"""What the constants of a graph are: from which initializers, through which operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


_SIZES = ("Shape", "Size")


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that no input of the graph changes.

    Attributes:
        initializers: Names of the initializers that it is made of.
        content: Its numbers.
    """

    initializers: frozenset[str]
    content: npt.NDArray[Any]


class Constants:
    """The constants of a graph, computed when they are asked for."""

    def __init__(self, graph: ModelProto) -> None:
        self._initializers = {tensor.name: tensor for tensor in graph.graph.initializer}
        self._makers = {name: node for node in graph.graph.node for name in node.output}
        self._opsets = list(graph.opset_import)

    def initializers_behind(self, name: str, *, sizes_count: bool = True) -> frozenset[str] | None:
        """Names of the initializers that a value is made of; None where an input of the graph is among its origins.

        Args:
            name: The value.
            sizes_count: Whether an input is an origin, too, where only its size is read: zeros for each sample.
        """
        waiting, visited, names = [name], {name}, set()
        while waiting:
            current = waiting.pop()
            if current in self._initializers:
                names.add(current)
                continue
            maker = self._makers.get(current)
            if maker is not None and maker.op_type in _SIZES and not sizes_count:
                continue
            if maker is None or any(attribute.HasField("g") for attribute in maker.attribute):
                return None
            fresh = [value for value in maker.input if value and value not in visited]
            visited.update(fresh)
            waiting += fresh
        return frozenset(names)

    def behind(self, name: str) -> Constant | None:
        """A value, where no input of the graph changes it and the reference evaluator of ONNX can compute it."""
        names = self.initializers_behind(name)
        if names is None:
            return None
        content = self._content(name)
        return None if content is None else Constant(names, content)

    def _content(self, name: str) -> npt.NDArray[Any] | None:
        import onnx.numpy_helper

        if name in self._initializers:
            return onnx.numpy_helper.to_array(self._initializers[name])
        nodes = self._nodes_before(name)
        if [node.op_type for node in nodes] == ["Transpose"]:  # the usual one, without a graph around it
            return self._transposed(nodes[0])
        return self._evaluated(nodes, name)

    def _transposed(self, node: NodeProto) -> npt.NDArray[Any]:
        import onnx.numpy_helper

        axes = [tuple(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
        content = onnx.numpy_helper.to_array(self._initializers[node.input[0]])
        return np.transpose(content, axes[0] if axes else None)

    def _nodes_before(self, name: str) -> list[NodeProto]:
        """The nodes that make a value, each behind those that it reads."""
        ordered: list[NodeProto] = []
        visited: set[str] = set()
        waiting = [(name, False)]
        while waiting:
            current, is_ready = waiting.pop()
            node = self._makers.get(current)
            if node is None or (not is_ready and current in visited):
                continue
            if is_ready:
                ordered += [] if any(node is other for other in ordered) else [node]
                continue
            visited.add(current)
            waiting += [(current, True), *((value, False) for value in node.input if value)]
        return ordered

    def _evaluated(self, nodes: list[NodeProto], name: str) -> npt.NDArray[Any] | None:
        import onnx.helper
        from onnx.reference import ReferenceEvaluator

        read = {value for node in nodes for value in node.input}
        initializers = [tensor for key, tensor in self._initializers.items() if key in read]
        output = onnx.ValueInfoProto(name=name)
        graph = onnx.helper.make_graph(nodes, "constant", [], [output], initializers)
        model = onnx.helper.make_model(graph, opset_imports=self._opsets)
        try:
            results: list[Any] = list(ReferenceEvaluator(model).run(None, {}))
            return np.asarray(results[0])
        except Exception:  # noqa: BLE001 - it runs any operator; one that it cannot run makes no known constant
            return None
