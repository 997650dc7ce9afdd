"""The weights of convolutions in an ONNX graph, so that they can be written differently for OpenVINO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sensitivity.deploy.packages import need


@dataclass(frozen=True, slots=True)
class ConvolutionWeight:
    """A weight that convolutions alone read.

    Attributes:
        tensor: The initializer, its codes or its numbers.
        zero: The code of 0, one for all or one for each output channel, to be broadcast.
        convolutions: The nodes that read it.
        in_int8: Whether all of them read quantized activations, and it is quantized itself.
        input_zeros: The zero points of these activations.
    """

    tensor: Any
    zero: npt.NDArray[Any]
    convolutions: tuple[Any, ...]
    in_int8: bool
    input_zeros: tuple[int, ...]

    def numbers(self) -> npt.NDArray[Any]:
        """Its content."""
        content: npt.NDArray[Any] = need("onnx", "openvino").numpy_helper.to_array(self.tensor)
        return content

    def replace(self, numbers: npt.NDArray[Any]) -> None:
        """Give it another content of the same type, in place."""
        helper = need("onnx", "openvino").numpy_helper
        self.tensor.CopyFrom(helper.from_array(np.ascontiguousarray(numbers), self.tensor.name))


def convolution_weights(graph: Any) -> Iterator[ConvolutionWeight]:
    """The constant weights that nothing but convolutions reads.

    Args:
        graph: ``onnx.GraphProto``.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dequantizers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for name in [*constants, *dequantizers]:
        dequantizer, convolutions = dequantizers.get(name), tuple(readers[name])
        tensor = constants.get(name if dequantizer is None else dequantizer.input[0])
        if tensor is None or not convolutions or (dequantizer is not None and len(readers[tensor.name]) > 1):
            continue
        if not all(node.op_type == "Conv" and node.input[1] == name for node in convolutions):
            continue
        makers = [dequantizers.get(node.input[0]) for node in convolutions]
        zeros = [zero for maker in makers if maker is not None for zero in _zero_point(maker, constants)]
        in_int8 = dequantizer is not None and None not in makers
        zero = np.zeros(1) if dequantizer is None else _zero_point(dequantizer, constants)
        column = zero.reshape(-1, *[1] * (len(tensor.dims) - 1))
        yield ConvolutionWeight(tensor, column, convolutions, in_int8, tuple(map(int, zeros)))


def forget_shape(graph: Any, weight: ConvolutionWeight) -> None:
    """Take out what the graph tells of the shape that a weight had."""
    names = {convolution.input[1] for convolution in weight.convolutions}
    for stale in [value for value in graph.value_info if value.name in names]:
        graph.value_info.remove(stale)


def attribute_of(node: Any, name: str) -> Any:
    """An attribute of a node; None where it has none of that name."""
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def group_count(convolution: Any) -> int:
    """How many groups a convolution has."""
    group = attribute_of(convolution, "group")
    return 1 if group is None else int(group.i)


def _zero_point(dequantizer: Any, constants: dict[str, Any]) -> npt.NDArray[Any]:
    if not dequantizer.input[2:]:
        return np.zeros(1)
    points: npt.NDArray[Any] = need("onnx", "openvino").numpy_helper.to_array(constants[dequantizer.input[2]])
    return points.reshape(-1)
