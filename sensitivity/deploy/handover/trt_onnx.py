"""TensorRT: a strongly typed network reads the scheme from Q/DQ, so that the ONNX file is what is handed over."""

from __future__ import annotations

from sensitivity.deploy.graph.nodes import node_name
from sensitivity.deploy.handover.handed import Handover
from sensitivity.deploy.handover.placed import Placed, int8_specs
from sensitivity.errors import RecipeError
from sensitivity.records import Layer

TOOL = "TensorRT"
_CODE = """\
deployed = wrapped.deploy(scheme, "onnxruntime")  # writes the ONNX file with Q/DQ; no GPU is needed for that
deployed.save(folder)
# trtexec --onnx=model.onnx --stronglyTyped --saveEngine=model.engine --profilingVerbosity=detailed"""


def handed_over(placed: Placed) -> Handover:
    """The names of the nodes that carry Q/DQ and of those that do not, and the lines that write the file.

    Raises:
        RecipeError: If TensorRT cannot do what the recipe says.
    """
    for recipe in dict.fromkeys(placed.recipes[layer.name] for layer in placed.quantized):
        _, activations = int8_specs(recipe, TOOL)
        if not activations.symmetric or activations.format != "int8":
            raise RecipeError(
                f"recipe {recipe.name!r} has activations in {activations!r}, and {TOOL} knows symmetric int8 with zero "
                "point 0 only. Nearest: sv.INT8."
            )
    if not placed.quantized:
        raise RecipeError(f"the scheme quantizes no layer: there is nothing to hand over to {TOOL}.")
    return Handover.of(
        placed,
        "tensorrt",
        {"int8_nodes": _nodes(placed.quantized), "float_nodes": _nodes(placed.protected)},
        _CODE,
        (
            "TensorRT 11 has no other way: calibrators, layer precisions and weak typing are gone. In TensorRT 10 they "
            "are deprecated, and a builder that chooses precisions by speed does not keep to a scheme.",
            "wrapped.deploy(scheme, 'tensorrt') also leaves layers in float that TensorRT runs badly in int8, each "
            "with its reason; the file written here has Q/DQ on every layer of the scheme.",
        ),
    )


def _nodes(layers: tuple[Layer, ...]) -> list[str]:
    return [node_name(layer, call) for layer in layers for call in range(layer.calls)]
