"""NNCF: arguments of ``nncf.quantize``, with an ``IgnoredScope`` for what stays in float."""

from __future__ import annotations

import re

from sensitivity.deploy.graph.nodes import CALL_MARK, node_name
from sensitivity.deploy.handover.handed import Handover
from sensitivity.deploy.handover.placed import Placed, int8_specs
from sensitivity.errors import RecipeError
from sensitivity.records import Layer

TOOL = "NNCF"
_CODE = """\
import nncf

quantized = nncf.quantize(
    model,  # the torch model, or the graph that wrapped.deploy(sv.Scheme(), "onnxruntime").save(folder) writes
    nncf.Dataset(images),
    preset=nncf.QuantizationPreset(settings["preset"]),
    ignored_scope=nncf.IgnoredScope(patterns=settings["ignored_patterns"]),
)"""


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
    return Handover(
        "nncf",
        {
            "preset": "performance" if activations.symmetric else "mixed",
            "ignored_patterns": [_pattern(layer) for layer in placed.protected],
        },
        _CODE,
        (
            "NNCF also quantizes what is no layer, such as additions and poolings.",
            "NNCF calibrates by itself: the ranges are not those of this library's calibration.",
        ),
        tuple(layer.module for layer in placed.quantized),
        tuple(layer.module for layer in placed.protected),
    )


def _pattern(layer: Layer) -> str:
    """A regular expression of the layer's nodes: ``a/b/conv2d/0`` in a torch graph, ``a.b`` or ``a.b#1`` in ours."""
    path = "[./]".join(re.escape(part) for part in node_name(layer, 0).removesuffix(f"{CALL_MARK}0").split("."))
    return rf"^{path}(/[^/]+/\d+|{CALL_MARK}\d+)?$"
