"""Bytes of a layer's parameters, as stored and under a recipe: the one place that counts them."""

from __future__ import annotations

from math import ceil

from sensitivity.records.layer import Layer
from sensitivity.records.recipes.recipe import Recipe


def layer_bytes(
    layer: Layer, recipe: Recipe | None, *, element_bytes: int | None = None, biases_too: bool = False
) -> int:
    """Bytes of weight and bias under a recipe.

    A quantized weight takes the recipe's bits. Everything else is as the model stores it: biases too, which engines
    keep in float. Scales and the sparsity of pruned weights are not counted.

    Args:
        layer: The layer.
        recipe: What it gets; None where it is protected.
        element_bytes: Bytes of an element that is not quantized, e.g. 2 for a model deployed in FP16; None takes those
            of an element of the weight as stored.
        biases_too: Count the bias of a quantized layer in the recipe's bits as well, as the thesis did.
    """
    elements = layer.weight_elements
    biases = layer.parameters - elements
    stored = element_bytes or (round(layer.weight_bytes / elements) if elements else 0)
    if recipe is None or recipe.weights is None:
        weight = layer.weight_bytes if element_bytes is None else elements * element_bytes
        return weight + biases * stored
    if biases_too:
        return ceil(layer.parameters * recipe.weight_bits / 8)
    return ceil(elements * recipe.weight_bits / 8) + biases * stored
