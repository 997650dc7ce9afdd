"""Operations of OpenVINO's execution graph that only turn a tensor into another form, and what each operation reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from sensitivity.contracts import FormatChange

if TYPE_CHECKING:
    from onnx import GraphProto

_INTEGERS = frozenset({"i8", "u8"})
_FLOATS = frozenset({"f32", "f16", "bf16"})
_MOVES = frozenset({"Reorder", "Convert", "FakeQuantize"})
_FUSED = frozenset({"Subgraph", "Eltwise"})
NO_OPERATION = frozenset({"Input", "Const", "Output", "Parameter", "Result"})
"""Kinds of nodes that compute nothing."""


def facts_of(operation: Any) -> dict[str, str]:
    """What OpenVINO tells of an operation of the execution graph."""
    return {key: str(value.value if hasattr(value, "value") else value) for key, value in operation.rt_info.items()}


def quantizers_of(graph: GraphProto) -> frozenset[str]:
    """Names of the nodes of an ONNX graph that quantize or dequantize, and of what they write."""
    nodes = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    return frozenset({name for node in nodes for name in (node.name, *node.output)})


def reads_of(operation: Any) -> tuple[str, ...]:
    """Names of the operations whose outputs an operation reads."""
    sources = [operation.input_value(number).get_node() for number in range(operation.get_input_size())]
    return tuple(node.get_friendly_name() for node in sources if facts_of(node).get("layerType") not in NO_OPERATION)


def change_of(operation: Any, quantizers: Collection[str]) -> FormatChange | None:
    """What an operation turns its tensor into; None where it computes something.

    A ``Subgraph`` that adds, or applies a nonlinearity, and writes codes in the same pass is no change by itself, and
    what moves a constant is none either.

    Args:
        operation: One of the execution graph.
        quantizers: See ``quantizers_of``.
    """
    facts = facts_of(operation)
    kind = facts.get("layerType", "")
    if kind not in _MOVES and not (kind in _FUSED and _only_quantizes(facts, quantizers)):
        return None
    if not operation.get_input_size() or _is_constant(operation):
        return None
    read, written = _precision_read(operation), facts.get("outputPrecisions", "").split(",")[0]
    if read in _FLOATS and written in _INTEGERS:
        return "to int8"
    if read in _INTEGERS and written in _FLOATS:
        return "to float"
    return "layout" if kind == "Reorder" else None


def _is_constant(operation: Any) -> bool:
    """Whether an operation moves a constant, which is done once, when the graph is compiled."""
    return facts_of(operation.input_value(0).get_node()).get("layerType") == "Const"


def _only_quantizes(facts: Mapping[str, str], quantizers: Collection[str]) -> bool:
    nodes = [name for name in facts.get("originalLayersNames", "").split(",") if name]
    return bool(nodes) and all(name in quantizers for name in nodes)


def _precision_read(operation: Any) -> str:
    source = operation.input_value(0)
    precisions = facts_of(source.get_node()).get("outputPrecisions", "").split(",")
    return precisions[source.get_index()] if source.get_index() < len(precisions) else ""
