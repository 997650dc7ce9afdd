"""What OpenVINO cannot read, written so that it can: circular padding, as pieces put on the other side of a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from sensitivity.deploy.packages import need

_LAST = np.iinfo(np.int64).max
_AXES_INPUT = 3


def with_pieces_for_circular_pads(model: Any) -> int:
    """Write ``Slice`` and ``Concat`` for every ``Pad`` of mode ``wrap`` with constant amounts, in place.

    Args:
        model: ``onnx.ModelProto``.

    Returns:
        How many were written.
    """
    graph, written = model.graph, 0
    for node in list(graph.node):
        if node.op_type == "Pad" and any(a.name == "mode" and a.s == b"wrap" for a in node.attribute):
            amounts = _amounts(graph, node)
            if amounts is not None:
                _replace(graph, node, amounts)
                written += 1
    return written


def _amounts(graph: Any, pad: Any) -> list[tuple[int, int, int]] | None:
    """Axis, and how much is put in front of and behind it; None where that is no constant, or takes away."""
    numpy_helper = need("onnx", "openvino").numpy_helper
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    if pad.input[1] not in constants or any(name and name not in constants for name in pad.input[_AXES_INPUT:]):
        return None
    before, behind = numpy_helper.to_array(constants[pad.input[1]]).reshape(2, -1).tolist()
    own = [numpy_helper.to_array(constants[name]).tolist() for name in pad.input[_AXES_INPUT:] if name]
    axes = own[0] if own else range(len(before))
    if min(*before, *behind) < 0:
        return None
    return [(axis, first, last) for axis, first, last in zip(axes, before, behind, strict=True) if first or last]


def _replace(graph: Any, pad: Any, amounts: list[tuple[int, int, int]]) -> None:
    onnx = need("onnx", "openvino")
    place, source, output = list(graph.node).index(pad), pad.input[0], pad.output[0]
    nodes = []
    for axis, before, behind in amounts:
        bounds = {"front": (-before, _LAST), "back": (0, behind)}
        pieces = {"front": before, "back": behind}
        names = {}
        for side, (start, end) in bounds.items():
            if pieces[side]:
                names[side] = f"{output}/{side}{axis}"
                inputs = [f"{names[side]}/{word}" for word in ("start", "end", "axis")]
                for name, number in zip(inputs, (start, end, axis), strict=True):
                    graph.initializer.append(onnx.numpy_helper.from_array(np.array([number], np.int64), name))
                nodes.append(onnx.helper.make_node("Slice", [source, *inputs], [names[side]], name=names[side]))
        parts = [*([names["front"]] if before else []), source, *([names["back"]] if behind else [])]
        source = f"{output}/around{axis}"
        nodes.append(onnx.helper.make_node("Concat", parts, [source], name=source, axis=axis))
    nodes[-1].output[0], nodes[-1].name = output, pad.name
    del graph.node[place]
    for node in reversed(nodes):
        graph.node.insert(place, node)
