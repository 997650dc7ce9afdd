"""What a tool with a quantizer for each module is told: of every layer its weight and its input, as plain values."""

from __future__ import annotations

from typing import Any

from sensitivity.deploy.handover.placed import Placed
from sensitivity.errors import RecipeError
from sensitivity.records import Layer, QuantSpec, Recipe
from sensitivity.records.recipes.formats import find_format

_SAMPLES_AND_CHANNELS = 2  # axes of a convolution's weight that count no places


def quantizers_of_layers(placed: Placed, tool: str) -> dict[str, dict[str, Any]]:
    """For the path of each quantized module: how its weight and its input are quantized, None where they are not.

    Args:
        placed: The scheme.
        tool: What takes it, for messages.

    Raises:
        RecipeError: If the scheme quantizes nothing, or the tool cannot do what a recipe says.
    """
    if not placed.quantized:
        raise RecipeError(f"the scheme quantizes no layer: there is nothing to hand over to {tool}.")
    return {layer.module: _of_layer(layer, placed.recipes[layer.name], tool) for layer in placed.quantized}


def check_is_module(layer: Layer, tool: str) -> None:
    """Nothing, if a layer is what its own module computes with its ``weight``.

    Raises:
        RecipeError: If it is met inside another module's code, which no quantizer of a module reaches.
    """
    if layer.weight != "weight" or layer.runs_in is not None:
        raise RecipeError(
            f"layer {layer.name!r} multiplies by {layer.module}.{layer.weight} in code of its own, where {tool} has no "
            f"quantizer. Nearest: scheme.protect({layer.name!r})."
        )


def _of_layer(layer: Layer, recipe: Recipe, tool: str) -> dict[str, Any]:
    check_is_module(layer, tool)
    weights, activations = recipe.weights, recipe.activations
    if activations is not None and activations.granularity != "per-tensor":
        raise RecipeError(
            f"recipe {recipe.name!r} has {activations!r} for activations, and {tool} is handed one scale a tensor "
            "there. Nearest: granularity='per-tensor'."
        )
    if weights is not None and not weights.symmetric:
        raise RecipeError(
            f"recipe {recipe.name!r} has weights in {weights!r}, and {tool} is handed symmetric ones. Nearest: sv.INT8."
        )
    axes = len(layer.kernel_size) + _SAMPLES_AND_CHANNELS
    weight = None if weights is None else _plain(weights, recipe, tool)
    if weight is not None and weights is not None:
        per_channel = weights.granularity == "per-channel"
        weight |= {"axis": (weights.axis if weights.axis is not None else layer.output_axis) if per_channel else None}
        weight |= {"dimensions": axes}
    return {"weight": weight, "input": None if activations is None else _plain(activations, recipe, tool)}


def _plain(spec: QuantSpec, recipe: Recipe, tool: str) -> dict[str, Any]:
    codes = find_format(spec.format)
    if codes.kind != "integer" or codes.dtype not in ("int8", "uint8") or spec.granularity == "per-group":
        raise RecipeError(
            f"recipe {recipe.name!r} has {spec!r}, and {tool} is handed integers of up to 8 bits, one scale a tensor "
            "or a channel. Nearest: sv.INT8 or sv.INT8_AFFINE."
        )
    smallest = -codes.qmax if spec.symmetric and spec is recipe.weights else codes.qmin
    return {
        "bits": codes.bits,
        "dtype": codes.dtype,
        "smallest": smallest,
        "largest": codes.qmax,
        "symmetric": spec.symmetric,
    }
