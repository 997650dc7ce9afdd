"""Names in an exported graph: inputs and outputs by number, weights by their path in the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.deploy.prepare.signature import Signature
from sensitivity.errors import ExportError

if TYPE_CHECKING:
    from onnx import ModelProto

CORE = "core."
"""Where the module stands that exporters are given: ``FlatModule`` holds it."""


def with_known_names(graph: ModelProto, path: str, signature: Signature) -> ModelProto:
    """The graph with inputs and outputs numbered, and weights named by their path in the whole model."""
    import onnx

    inputs, outputs = list(graph.graph.input), list(graph.graph.output)
    if len(inputs) != len(signature.inputs.places) or len(outputs) != len(signature.outputs.places):
        raise ExportError(
            f"its graph has {len(inputs)} inputs and {len(outputs)} outputs, the module has "
            f"{len(signature.inputs.places)} and {len(signature.outputs.places)} tensors: an argument is not used, or "
            "an output is the same tensor twice"
        )
    prefix = f"{path}." if path else ""
    names = {
        tensor.name: prefix + tensor.name.removeprefix(CORE)
        for tensor in graph.graph.initializer
        if tensor.name.startswith(CORE)
    }
    names |= {port.name: f"input{number}" for number, port in enumerate(inputs)}
    _rename(graph, names)
    for number, output in enumerate(graph.graph.output):
        # an Identity: engines give the name of an output to what computes it, and the layer's own would be lost
        source, output.name = names.get(output.name, output.name), f"output{number}"
        graph.graph.node.append(onnx.helper.make_node("Identity", [source], [output.name], name=output.name))
    try:
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"its graph is not valid ONNX: {error}") from error
    return graph


def _rename(graph: ModelProto, names: dict[str, str]) -> None:
    for node in graph.graph.node:
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)
    for values in (graph.graph.initializer, graph.graph.input, graph.graph.value_info):
        for value in values:
            value.name = names.get(value.name, value.name)
