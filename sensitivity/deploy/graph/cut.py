"""One layer cut out of a graph, with what stands between it and the next quantizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.deploy.graph.constants import Constants
from sensitivity.deploy.graph.copies import swept, without_weights
from sensitivity.deploy.graph.multipliers import MULTIPLIERS
from sensitivity.deploy.graph.nodes import consumers
from sensitivity.deploy.graph.qdq import QdqGraph
from sensitivity.quantize.scales import QuantParams

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_ACTIVATIONS = {
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Elu",
    "Selu",
    "Celu",
    "Clip",
    "HardSwish",
    "HardSigmoid",
    "Sigmoid",
    "Tanh",
}
_ARITHMETIC = {
    "Erf",
    "Gelu",
    "Softplus",
    "Mish",
    "Mul",
    "Add",
    "Sub",
    "Div",
    "Pow",
    "Sqrt",
    "Exp",
    "Abs",
    "Neg",
    "Min",
    "Max",
}
_MOVES = {"Identity", "Cast", "MaxPool", "Pad", "Reshape", "Transpose", "Flatten"}
PASSED_THROUGH = frozenset(_ACTIVATIONS | _ARITHMETIC | _MOVES)
"""What may stand between a layer and the quantizer behind it for the two to be tried together."""


_BIAS_INPUT = 2  # of Conv and Gemm


class Finder:
    """Looks for what stands behind a layer in a graph."""

    def __init__(self, qdq: QdqGraph) -> None:
        self._graph = qdq.graph
        self._quantizers = qdq.quantizers
        self._sides = qdq.sides
        self._nodes = {node.name: node for node in qdq.graph.graph.node}
        self._makers = {name: node for node in qdq.graph.graph.node for name in node.output}
        self._constants = {tensor.name for tensor in qdq.graph.graph.initializer}
        self._readers = consumers(qdq.graph)

    def quantizer_behind(self, name: str) -> tuple[str, str] | None:
        """Codes that depend on this layer's input codes alone, and the node that reads them; None if there are none."""
        source = self._quantizers[name]
        waiting, visited = [self._nodes[name].output[0]], set()
        while waiting:
            tensor = waiting.pop(0)
            for node in self._readers.get(tensor, []):
                if node.op_type == "QuantizeLinear" and self._depends_only_on(tensor, source):
                    reader = next(key for key, codes in self._quantizers.items() if codes == node.output[0])
                    return node.output[0], reader
                if node.op_type in PASSED_THROUGH and node.output[0] not in visited:
                    visited.add(node.output[0])
                    waiting.append(node.output[0])
        return None

    def end_of(self, name: str) -> str:
        """The tensor that holds a layer's own output, bias included: where a MatMul is, the Add behind it."""
        tensor: str = self._nodes[name].output[0]
        readers = self._readers.get(tensor, [])
        if self._nodes[name].op_type == "MatMul" and len(readers) == 1 and readers[0].op_type == "Add":
            bias = [operand for operand in readers[0].input if operand != tensor]
            if len(bias) == 1 and bias[0] in self._constants:
                tensor = readers[0].output[0]
        return tensor

    def side_of(self, name: str) -> int:
        """Whether the weight of a layer's node is its first (0) or second (1) input."""
        return self._sides.get(name, 1)

    def reads_a_constant(self, name: str) -> bool:
        """Whether what a layer's node multiplies is made of constants alone, so that an engine computes it once."""
        source = self._nodes[name].input[1 - self.side_of(name)]
        return Constants(self._graph).initializers_behind(source) is not None

    def takes_matrices_alone(self, name: str) -> bool:
        """Whether a layer's node multiplies two matrices and no batches of them."""
        return bool(self._nodes[name].op_type == "Gemm")

    def product_of(self, name: str) -> str:
        """The tensor that a layer's node writes."""
        tensor: str = self._nodes[name].output[0]
        return tensor

    def cut(
        self,
        name: str,
        end: str,
        shape: tuple[int, ...],
        params: QuantParams | None = None,
        *,
        with_bias: bool = True,
    ) -> ModelProto:
        """The graph from a layer's input to a tensor.

        Args:
            name: Node of the layer.
            end: A tensor behind it: codes or in float.
            shape: Of the layer's input.
            params: Quantizes a float tensor, if given; the graph returns the codes.
            with_bias: Whether the node keeps the bias that it adds itself.
        """
        import onnx

        graph = without_weights(self._graph)
        weights = list(self._graph.graph.initializer)
        kind = onnx.TensorProto.FLOAT
        if params is not None:
            end, kind = _append_quantizer(graph, end), onnx.TensorProto.INT8
            weights += _constants_of(params)
        elif self._makers[end].op_type == "QuantizeLinear":
            zero = next(tensor for tensor in weights if tensor.name == self._makers[end].input[2])
            kind = zero.data_type
        del graph.graph.input[:]
        del graph.graph.output[:]
        entry = onnx.helper.make_tensor_value_info("values", onnx.TensorProto.FLOAT, list(shape))
        graph.graph.input.append(entry)
        quantizer = self._quantizers.get(name)
        for node in graph.graph.node:
            if node.output[0] == quantizer:
                node.input[0] = "values"
            if quantizer is None and node.name == name:
                node.input[1 - self.side_of(name)] = "values"
            if node.name == name and not with_bias:
                del node.input[_BIAS_INPUT:]
        graph.graph.output.append(onnx.helper.make_tensor_value_info(end, kind, None))
        del graph.graph.value_info[:]
        return swept(graph, initializers=weights)

    def _depends_only_on(self, tensor: str, codes: str) -> bool:
        """Whether a tensor is made of these codes and constants, by one layer and nothing that reduces."""
        waiting, visited, layers = [tensor], set(self._constants) | {codes, ""}, 0
        while waiting:
            name = waiting.pop()
            if name in visited:
                continue
            visited.add(name)
            node = self._makers.get(name)
            if node is None or not _is_plain(node):
                return False
            layers += node.op_type in MULTIPLIERS
            waiting += node.input
        return layers == 1


def _is_plain(node: NodeProto) -> bool:
    return node.op_type in PASSED_THROUGH | MULTIPLIERS | {"DequantizeLinear", "Constant"}


_OWN = ("own.scale", "own.zero_point")


def _append_quantizer(graph: ModelProto, tensor: str) -> str:
    import onnx

    quantizer = onnx.helper.make_node("QuantizeLinear", [tensor, *_OWN], ["own.codes"], name="own.codes")
    graph.graph.node.append(quantizer)
    return "own.codes"


def _constants_of(params: QuantParams) -> list[TensorProto]:
    import numpy as np
    import onnx

    values = (params.scale.numpy(), np.zeros((), np.int8))
    return [onnx.numpy_helper.from_array(value, name) for name, value in zip(_OWN, values, strict=True)]
