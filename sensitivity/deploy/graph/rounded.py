"""A graph in half precision, computed in fp32 with every rounding written out.

A CPU has few kernels for float16. ONNX Runtime computes such a node in fp32 between two casts, then removes the casts
between one such node and the next, optimizations off or not: what overflows in float16 does not overflow there. In the
graph written here it rounds wherever the types say so, as hardware does that adds in fp32 and stores halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sensitivity.deploy.graph.multipliers import MULTIPLIERS

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_FLOAT, _HALF = 1, 10  # onnx.TensorProto.FLOAT and FLOAT16


def half_values(model: ModelProto) -> frozenset[str]:
    """Names of all values of a graph that are float16."""
    import onnx.shape_inference

    return values_of_type(onnx.shape_inference.infer_shapes(model).graph, _HALF)


def values_of_type(graph: GraphProto, element_type: int) -> frozenset[str]:
    """Names of all values of a graph of an ``onnx.TensorProto`` type, those of the graphs inside its nodes left out."""
    ports = (*graph.input, *graph.output, *graph.value_info)
    named = {port.name for port in ports if port.type.tensor_type.elem_type == element_type}
    return frozenset(named | {tensor.name for tensor in graph.initializer if tensor.data_type == element_type})


def with_roundings(model: ModelProto, halves: frozenset[str]) -> ModelProto:
    """The same graph in fp32: each float16 value is rounded to float16 and read as fp32.

    Args:
        model: Not changed. Graphs inside its nodes hold no float16 values.
        halves: What ``half_values`` gives for it.
    """
    import onnx.numpy_helper

    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    for tensor in graph.initializer:
        if tensor.data_type == _HALF:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    inputs = [port.name for port in graph.input if port.name in halves]
    outputs = [port.name for port in graph.output if port.name in halves]
    exact = _between_integers(graph)
    renamed = {name: f"{name}.as_fp32" for name in (*inputs, *outputs)}  # a port keeps its name and its type
    nodes = [_cast(name, renamed[name], _FLOAT) for name in inputs]
    for node in graph.node:
        nodes += _rounded(node, halves - exact, renamed)
    nodes += [_cast(renamed[name], name, _HALF) for name in outputs]
    del graph.node[:]
    del graph.value_info[:]
    graph.node.extend(nodes)
    return rounded


def _rounded(node: NodeProto, halves: frozenset[str], renamed: Mapping[str, str]) -> list[NodeProto]:
    """A node that computes in fp32, and the casts that round what it writes."""
    _write_types(node)
    for place, name in enumerate(node.input):
        node.input[place] = renamed.get(name, name)
    nodes = [node]
    for place, name in enumerate(node.output):
        if name in halves:
            written = renamed.get(name, name)
            node.output[place] = f"{written}.exact"
            nodes += [_cast(node.output[place], f"{written}.rounded", _HALF)]
            nodes += [_cast(f"{written}.rounded", written, _FLOAT)]
    return nodes


def _between_integers(graph: GraphProto) -> frozenset[str]:
    """What quantized layers read, input and weight: their product is one of integers, and rounds neither."""
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in graph.node if node.op_type in MULTIPLIERS and dequantized.issuperset(node.input[:2])]
    return frozenset(name for node in products for name in node.input[:2])


def _write_types(node: NodeProto) -> None:
    """Let a node that says itself what it makes make fp32."""
    import onnx.numpy_helper

    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == _HALF:
            attribute.i = _FLOAT
        elif attribute.HasField("t") and attribute.t.data_type == _HALF:
            values = onnx.numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(values, attribute.t.name))


def _cast(source: str, output: str, wanted: int) -> NodeProto:
    import onnx.helper

    return onnx.helper.make_node("Cast", [source], [output], f"{output}.cast", to=wanted)
