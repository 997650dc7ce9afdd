"""What a scheme does to each layer of a model, and what tools in general can take of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sensitivity.errors import RecipeError
from sensitivity.layers.select import resolve
from sensitivity.records import Layer, QuantSpec, Recipe, Scheme


@dataclass(frozen=True)
class Placed:
    """A scheme resolved against the layers of a model.

    Attributes:
        layers: All layers.
        recipes: Recipe by layer name; a layer that is not in it stays in float.
    """

    layers: tuple[Layer, ...]
    recipes: Mapping[str, Recipe]

    @property
    def quantized(self) -> tuple[Layer, ...]:
        """The layers that have a recipe."""
        return tuple(layer for layer in self.layers if layer.name in self.recipes)

    @property
    def protected(self) -> tuple[Layer, ...]:
        """The layers that stay in float."""
        return tuple(layer for layer in self.layers if layer.name not in self.recipes)

    def only_recipe(self, tool: str) -> Recipe:
        """The one recipe of all quantized layers.

        Raises:
            RecipeError: If there is none, or there are several.
        """
        recipes = list(dict.fromkeys(self.recipes[layer.name] for layer in self.quantized))
        if not recipes:
            raise RecipeError(f"the scheme quantizes no layer: there is nothing to hand over to {tool}.")
        if len(recipes) > 1:
            names = ", ".join(repr(recipe.name) for recipe in recipes)
            raise RecipeError(
                f"{tool} quantizes all layers of one run alike, and the scheme has {len(recipes)} recipes: {names}. "
                f"Nearest: {recipes[0].name!r} for all of them, or tool='modelopt', which has one for each layer."
            )
        return recipes[0]


def placed(scheme: Scheme, layers: Sequence[Layer], tool: str) -> Placed:
    """The scheme resolved, after a check of what no tool can take.

    Raises:
        LayerNotFoundError: If a rule selects no layer.
        RecipeError: If the scheme prunes, cures, asks for half precision, or simulates the thesis's quantizers.
    """
    if scheme.rest != "fp32":
        raise RecipeError(
            f"the scheme computes non-quantized layers in {scheme.rest}, which {tool} is not told by quantization "
            "settings. Hand over scheme.with_rest('fp32') and convert those layers with it, or use wrapped.deploy()."
        )
    resolved = Placed(tuple(layers), resolve(scheme, layers))
    for recipe in dict.fromkeys(resolved.recipes.values()):
        _check_recipe(recipe, tool)
    return resolved


def _check_recipe(recipe: Recipe, tool: str) -> None:
    if recipe.pruning is not None:
        raise RecipeError(
            f"recipe {recipe.name!r} prunes, and {tool} is handed quantization alone. Nearest: the same recipe without "
            "pruning."
        )
    if recipe.placement != "deploy":
        raise RecipeError(
            f"recipe {recipe.name!r} has placement {recipe.placement!r}, which is a simulation: {tool} quantizes a "
            "layer's input and its weight. Nearest: placement='deploy'."
        )
    if recipe.has_cures:
        raise RecipeError(
            f"recipe {recipe.name!r} cures layers, and {tool} would quantize the weights anew, without the cure. "
            "Nearest: the same recipe with bias_correction=False and rounding='nearest', or wrapped.deploy(scheme)."
        )


def int8_specs(recipe: Recipe, tool: str) -> tuple[QuantSpec, QuantSpec]:
    """How the weights and the activations of an int8 recipe are quantized.

    Raises:
        RecipeError: If either is left in float or is no 8-bit integer, or the granularity is not the usual one.
    """
    weights, activations = recipe.weights, recipe.activations
    if weights is None or activations is None:
        part = "weights" if weights is None else "activations"
        raise RecipeError(
            f"recipe {recipe.name!r} leaves the {part} in float, and {tool} quantizes both in static quantization. "
            "Nearest: sv.INT8."
        )
    if weights.format != "int8" or not weights.symmetric:
        raise RecipeError(_unlike(recipe, tool, "weights", weights, "symmetric int8"))
    if activations.format not in ("int8", "uint8"):
        raise RecipeError(_unlike(recipe, tool, "activations", activations, "int8 or uint8"))
    if activations.granularity != "per-tensor":
        raise RecipeError(_unlike(recipe, tool, "activations", activations, "one scale a tensor"))
    if weights.granularity == "per-group":
        raise RecipeError(_unlike(recipe, tool, "weights", weights, "one scale a tensor or a channel"))
    return weights, activations


def _unlike(recipe: Recipe, tool: str, part: str, spec: QuantSpec, accepted: str) -> str:
    return (
        f"recipe {recipe.name!r} has {part} in {spec!r}, and {tool} is handed {accepted} there. Nearest: sv.INT8, or "
        "sv.INT8_AFFINE for activations with a zero point."
    )
