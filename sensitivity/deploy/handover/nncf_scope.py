"""NNCF: arguments of ``nncf.quantize``, with an ``IgnoredScope`` for what stays in float.

The same patterns fit an ONNX file that this library wrote, and a torch module that OpenVINO converted, which is also
what the OpenVINO export of ultralytics is. In a torch module nodes are found by their weights: NNCF names them after
the modules on the stack of calls, and leaves out those that a forward calls out of a list or a dictionary. Where batch
norms are not folded before OpenVINO converts a module, it folds them itself, and the convolutions lose their names.
"""

from __future__ import annotations

import re
from dataclasses import replace

from sensitivity.deploy.graph.nodes import CALL_MARK, node_name
from sensitivity.deploy.handover.handed import Handover
from sensitivity.deploy.handover.placed import Placed, int8_specs
from sensitivity.errors import RecipeError
from sensitivity.records import Layer

TOOL = "NNCF"
_CODE = """\
import copy
import nncf


def ignored_in(model):
    if not hasattr(model, "named_parameters"):
        return nncf.IgnoredScope(patterns=settings["ignored_patterns"])
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
    from nncf.torch.function_hook.wrapper import wrap_model

    graph = build_nncf_graph(wrap_model(copy.deepcopy(model)), images[0])
    readers = {node: {source.node_name for source in graph.get_previous_nodes(node)} for node in graph.get_all_nodes()}
    weights = set(settings["ignored_weights"])
    return nncf.IgnoredScope(names=[node.node_name for node, read in readers.items() if read & weights])


# model: the torch model, or the graph that wrapped.deploy(sv.Scheme(), "onnxruntime").save(folder) writes
quantized = nncf.quantize(
    model,
    nncf.Dataset(images),
    preset=nncf.QuantizationPreset(settings["preset"]),
    ignored_scope=ignored_in(model),
)"""

_OPENVINO_CODE = """\
import nncf
import openvino

# model: openvino.convert_model(wrapped.folded().model, example_input=image): convolutions keep their names where batch
# norms are folded before; or what ultralytics exports in float, which has folded them:
# model = openvino.Core().read_model(next(Path(YOLO("net.pt").export(format="openvino")).glob("*.xml")))
quantized = nncf.quantize(
    model,
    nncf.Dataset(images),
    preset=nncf.QuantizationPreset(settings["preset"]),
    ignored_scope=nncf.IgnoredScope(patterns=settings["ignored_patterns"]),
)
openvino.save_model(quantized, int8_xml, compress_to_fp16=False)"""


def handed_over_to_openvino(placed: Placed) -> Handover:
    """The same for a model that OpenVINO converted from torch, by itself or in the export of ultralytics.

    Raises:
        RecipeError: If NNCF cannot do what a recipe says.
    """
    notes = ("With int8=True the export of ultralytics quantizes all layers: export in float, then run these lines.",)
    handover = handed_over(placed)
    return replace(handover, tool="openvino", code=_OPENVINO_CODE, notes=(*handover.notes, *notes))


def handed_over(placed: Placed) -> Handover:
    """The scheme as a preset and patterns of nodes to ignore.

    Raises:
        RecipeError: If NNCF cannot do what a recipe says.
    """
    recipe = placed.only_recipe(TOOL)
    weights, activations = int8_specs(recipe, TOOL)
    if weights.granularity != "per-channel":
        raise RecipeError(
            f"recipe {recipe.name!r} has one scale for a whole weight, and NNCF quantizes weights by channel. Nearest: "
            "sv.INT8."
        )
    return Handover.of(
        placed,
        "nncf",
        {
            "preset": "performance" if activations.symmetric else "mixed",
            "ignored_patterns": [_pattern(layer) for layer in placed.protected],
            "ignored_weights": [layer.parameter for layer in placed.protected],
        },
        _CODE,
        (
            "NNCF also quantizes what is no layer, such as additions and poolings.",
            "NNCF leaves some layers in float whatever it is told, such as the last one of a gate that it recognizes.",
            "NNCF calibrates by itself: the ranges are not those of this library's calibration.",
        ),
    )


def _pattern(layer: Layer) -> str:
    """A regular expression of the layer's nodes.

    ``a.b`` or ``a.b#1`` in our graphs, ``__module.a.b/aten::_convolution/Convolution`` in OpenVINO's.
    """
    path = re.escape(node_name(layer, 0).removesuffix(f"{CALL_MARK}0"))
    return rf"^(__module\.)?{path}({CALL_MARK}\d+)?(/.+)?$"
