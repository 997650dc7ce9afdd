"""Products by a constant matrix, written as the matrix products that engines run in int8.

Engines know int8 for a MatMul whose second operand is the weight. A weight on the left, or in an Einsum, is turned
round: ``W @ x`` is the transpose of ``x.T @ W.T``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sensitivity.deploy.graph.constants import Constants

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_PRODUCTS = {"MatMul", "Einsum"}
_MATRIX = 2


def turn_to_the_right(graph: ModelProto) -> None:
    """Rewrite the products whose constant operand is not on the right.

    Args:
        graph: Changed in place; a product by anything but one constant matrix is left alone.
    """
    import onnx.shape_inference

    products = [node for node in graph.graph.node if node.op_type in _PRODUCTS]
    if not products:
        return
    constants = Constants(graph)
    inferred = onnx.shape_inference.infer_shapes(graph)
    ranks = {
        tensor.name: len(tensor.type.tensor_type.shape.dim)
        for values in (inferred.graph.value_info, inferred.graph.input, inferred.graph.output)
        for tensor in values
        if tensor.type.tensor_type.HasField("shape")
    }
    ranks |= {tensor.name: len(tensor.dims) for tensor in graph.graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.graph.node:
        nodes += (_rewritten(node, constants, ranks) if node.op_type in _PRODUCTS else None) or [node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _rewritten(node: NodeProto, constants: Constants, ranks: dict[str, int]) -> list[NodeProto] | None:
    """The nodes that compute the same; None where it stays as it is."""
    if len(node.input) != _MATRIX:
        return None
    is_weight = [bool(constants.initializers_behind(name)) for name in node.input]
    letters = _letters(node, ranks)
    if letters is None or sum(is_weight) != 1:
        return None
    side = is_weight.index(True)
    if node.op_type == "MatMul" and side == 1:
        return None
    weight, source, output = letters[side], letters[1 - side], letters[2]
    summed = [letter for letter in weight if letter in source and letter not in output]
    written = [letter for letter in weight if letter in output and letter not in source]
    remaining = [letter for letter in source if letter not in summed]
    if (len(weight), len(summed), len(written)) != (_MATRIX, 1, 1) or sorted(output) != sorted([*remaining, *written]):
        return None
    name, (matrix, values) = node.output[0], (node.input[side], node.input[1 - side])
    return [
        _transpose(values, f"{name}.rows", _order(source, [*remaining, *summed])),
        _transpose(matrix, f"{name}.matrix", _order(weight, [*summed, *written])),
        _product(node, [f"{name}.rows", f"{name}.matrix"], f"{name}.product"),
        _transpose(f"{name}.product", name, _order([*remaining, *written], output)),
    ]


def _letters(node: NodeProto, ranks: dict[str, int]) -> tuple[list[str], list[str], list[str]] | None:
    """A letter for each axis of both operands and of the result, as in an Einsum; None where they are not known."""
    if node.op_type == "Einsum":
        equation = node.attribute[0].s.decode().replace(" ", "")
        if "." in equation or "->" not in equation:
            return None
        left, output = equation.split("->")
        first, second = left.split(",")
        repeats = any(len(set(part)) < len(part) for part in (first, second, output))
        return None if repeats else (list(first), list(second), list(output))
    rank, own = ranks.get(node.input[1], 0), ranks.get(node.input[0], _MATRIX)
    if rank < _MATRIX or own != _MATRIX:
        return None
    batch = [f"batch {number}" for number in range(rank - _MATRIX)]
    return ["out", "in"], [*batch, "in", "column"], [*batch, "out", "column"]


def _order(letters: Sequence[str], wanted: Sequence[str]) -> list[int]:
    return [list(letters).index(letter) for letter in wanted]


def _transpose(source: str, output: str, order: Sequence[int]) -> NodeProto:
    import onnx.helper

    return onnx.helper.make_node("Transpose", [source], [output], name=output, perm=list(order))


def _product(node: NodeProto, inputs: Sequence[str], output: str) -> NodeProto:
    import onnx.helper

    return onnx.helper.make_node("MatMul", list(inputs), [output], name=node.name)
