"""Q/DQ turned into products of integers: what a CPU's int8 kernels multiply, written out as ONNX operators.

``Conv(Dequantize(x), Dequantize(w)) + bias`` becomes ``ConvInteger(x, w)``, whose sums are exact in 32 bits, scaled
once by the product of both scales in float32, with the bias added in float32: the arithmetic that is simulated.

Weights are written as uint8 with a zero point of 128: ONNX Runtime has fast kernels for those, and slow code for int8
ones (measured on one 3x3 convolution of 64 channels: 0.8 and 61 ms, where float takes 2.2). Activations are quantized
to uint8 as well: on CPUs without VNNI, ``ConvInteger`` of int8 activations and uint8 weights cuts off sums of products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensitivity.deploy.graph.copies import swept

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_SHIFT = 128  # from int8 to uint8
_BIAS_INPUT = 2
_QUANTIZER_INPUTS = 3  # codes, scale, zero point
_MATRIX = 2
Numbers = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class _Operand:
    """What a product reads.

    Attributes:
        codes: Name of the tensor of codes.
        scale: Numbers of its scale.
        zero_point: Name of its zero point.
        axis: Axis of the scale; None where it is one number.
        scale_name: Name of its scale.
        dequantized: Name of the float tensor that it stands for.
    """

    codes: str
    scale: Numbers
    zero_point: str
    axis: int | None
    scale_name: str
    dequantized: str


def with_integer_products(model: ModelProto) -> tuple[ModelProto, frozenset[str]]:
    """A copy of a graph whose quantized convolutions and matrix products multiply integers.

    Left as they are: transposed convolutions, for which ONNX has no such operator, and products of which one operand is
    in float or has a scale for each channel of its input.

    Args:
        model: A graph with Q/DQ; not changed.

    Returns:
        The graph, and the names of the nodes that multiply integers in it.
    """
    import onnx

    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    writer = _Writer(graph)
    nodes: list[NodeProto] = []
    names = []
    for node in graph.graph.node:
        written = writer.of_product(node)
        nodes += written or [node]
        names += [node.name] if written else []
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(copies)
    del graph.graph.value_info[:]
    return swept(graph), frozenset(names)


class _Writer:
    """Writes the nodes of a product of integers, and the constants that they read into the graph."""

    def __init__(self, graph: ModelProto) -> None:
        import onnx

        self._onnx = onnx
        self._graph = graph
        self._makers: dict[str, NodeProto] = {name: node for node in graph.graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in graph.graph.initializer}

    def of_product(self, node: NodeProto) -> list[NodeProto]:
        """What stands in the place of a node; nothing where it stays as it is."""
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not self._is_plain(node) or not self._has_row_bias(node):
            return []
        values, weight = (self._operand(name) for name in node.input[:2])
        if values is None or weight is None or values.axis is not None or weight.codes not in self._constants:
            return []
        codes = self._numbers(weight.codes)
        if codes.dtype != np.int8 or self._numbers(weight.zero_point).any():
            return []
        if node.op_type == "Conv":
            return self._convolution(node, values, weight, codes)
        return self._matrix_product(node, values, weight, codes)

    def _convolution(self, node: NodeProto, values: _Operand, weight: _Operand, codes: Numbers) -> list[NodeProto]:
        if weight.axis not in (None, 0):
            return []
        values, quantizer = self._unsigned(values)
        inputs = [values.codes, self._shifted(weight.codes, codes), values.zero_point, self._shift()]
        product = self._node("ConvInteger", inputs, node, "")
        product.attribute.extend(node.attribute)
        along = (1, -1, *[1] * (codes.ndim - 2))
        return [*quantizer, product, *self._scaled(node, values, weight, along)]

    def _matrix_product(self, node: NodeProto, values: _Operand, weight: _Operand, codes: Numbers) -> list[NodeProto]:
        turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        outputs = 0 if turned else codes.ndim - 1
        if codes.ndim != _MATRIX or weight.axis not in (None, outputs):
            return []
        matrix = codes.T if turned else codes
        shifted = self._shifted(f"{weight.codes}.T" if turned else weight.codes, matrix)
        values, quantizer = self._unsigned(values)
        inputs = [values.codes, shifted, values.zero_point, self._shift()]
        return [*quantizer, self._node("MatMulInteger", inputs, node, ""), *self._scaled(node, values, weight, (-1,))]

    def _scaled(self, node: NodeProto, values: _Operand, weight: _Operand, along: tuple[int, ...]) -> list[NodeProto]:
        """The integer sum as the number that it stands for, bias added."""
        scale = values.scale.astype(np.float32) * weight.scale.astype(np.float32)
        scale = scale.reshape(along if scale.ndim else ())
        cast = self._node("Cast", [f"{node.name}/sums"], node, "/float")
        cast.attribute.append(self._onnx.helper.make_attribute("to", self._onnx.TensorProto.FLOAT))
        name = self._constant(f"{node.name}/scale", scale)
        bias = node.input[_BIAS_INPUT] if len(node.input) > _BIAS_INPUT else ""
        if not bias:
            return [cast, self._node("Mul", [cast.output[0], name], node, "/scaled", node.output[0])]
        scaled = self._node("Mul", [cast.output[0], name], node, "/scaled")
        shape = np.asarray(along if len(along) > 1 else (-1,), np.int64)
        reshaped = self._node("Reshape", [bias, self._constant(f"{node.name}/along", shape)], node, "/bias")
        return [
            cast,
            scaled,
            reshaped,
            self._node("Add", [scaled.output[0], reshaped.output[0]], node, "/biased", node.output[0]),
        ]

    def _node(self, kind: str, inputs: list[str], product: NodeProto, ending: str, output: str = "") -> NodeProto:
        name = f"{product.name}{ending}"
        return self._onnx.helper.make_node(kind, inputs, [output or (name if ending else f"{name}/sums")], name=name)

    def _operand(self, name: str) -> _Operand | None:
        """Where a tensor comes from, if it is dequantized; None if not."""
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear" or len(maker.input) < _QUANTIZER_INPUTS:
            return None
        codes, scale, zero_point = maker.input
        if scale not in self._constants or zero_point not in self._constants:
            return None
        numbers = self._numbers(scale)
        axis = next((int(attribute.i) for attribute in maker.attribute if attribute.name == "axis"), 1)
        return _Operand(codes, numbers, zero_point, axis if numbers.ndim else None, scale, name)

    def _unsigned(self, values: _Operand) -> tuple[_Operand, list[NodeProto]]:
        """Codes as uint8, and what quantizes to them if nothing did yet; the int8 ones stay for other readers."""
        zero_point = self._numbers(values.zero_point)
        if zero_point.dtype != np.int8:
            return values, []
        shifted = replace(
            values,
            codes=f"{values.codes}/unsigned",
            zero_point=self._shifted(values.zero_point, zero_point),
        )
        if shifted.codes in self._makers:
            return shifted, []
        maker = self._makers.get(values.codes)
        is_quantizer = maker is not None and maker.op_type == "QuantizeLinear"
        source = maker.input[0] if maker is not None and is_quantizer else values.dequantized
        inputs = [source, values.scale_name, shifted.zero_point]
        quantizer = self._onnx.helper.make_node("QuantizeLinear", inputs, [shifted.codes], name=shifted.codes)
        self._makers[shifted.codes] = quantizer
        return shifted, [quantizer]

    def _has_row_bias(self, node: NodeProto) -> bool:
        """Whether a node adds nothing, or a constant with one number for each output channel."""
        bias = node.input[_BIAS_INPUT] if len(node.input) > _BIAS_INPUT else ""
        return not bias or (bias in self._constants and len(self._constants[bias].dims) == 1)

    @staticmethod
    def _is_plain(node: NodeProto) -> bool:
        """Whether a ``Gemm`` only multiplies and adds."""
        usual = {"alpha": 1.0, "beta": 1.0}
        odd = any(attribute.f != usual[attribute.name] for attribute in node.attribute if attribute.name in usual)
        return not odd and not any(attribute.name == "transA" and attribute.i for attribute in node.attribute)

    def _shifted(self, name: str, codes: Numbers) -> str:
        """Constant codes, or a zero point, as uint8."""
        return self._constant(f"{name}/unsigned", (codes.astype(np.int16) + _SHIFT).astype(np.uint8))

    def _shift(self) -> str:
        """The zero point of all weights."""
        return self._constant("/weights' zero point", np.asarray(_SHIFT, np.uint8))

    def _constant(self, name: str, numbers: Numbers) -> str:
        if name not in self._constants:
            contiguous = np.ascontiguousarray(numbers).reshape(numbers.shape)
            self._constants[name] = self._onnx.numpy_helper.from_array(contiguous, name)
            self._graph.graph.initializer.append(self._constants[name])
        return name

    def _numbers(self, name: str) -> Numbers:
        numbers: Numbers = self._onnx.numpy_helper.to_array(self._constants[name])
        return numbers
