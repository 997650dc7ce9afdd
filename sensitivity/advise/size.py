"""Bytes of a layer's parameters, as stored and under a recipe."""

from __future__ import annotations

from math import ceil

from sensitivity.records import Layer, Recipe, StudyRecord

BIAS_BYTES = 4


def layer_bytes(layer: Layer, recipe: Recipe | None) -> int:
    """Bytes of weight and bias under a recipe.

    The weight takes the recipe's bits, or its stored bytes where the layer is protected or the recipe leaves weights
    alone. Biases take four bytes each either way: engines keep them in float. Scales and the sparsity of pruned weights
    are not counted.

    Args:
        layer: The layer.
        recipe: What it gets; None where it is protected.
    """
    elements = layer.weight_elements
    bias_bytes = BIAS_BYTES * (layer.parameters - elements)
    if recipe is None or recipe.weights is None:
        return layer.weight_bytes + bias_bytes
    return ceil(elements * recipe.weight_bits / 8) + bias_bytes


def saved_bytes(study: StudyRecord, recipe: str) -> dict[str, int]:
    """Bytes that a recipe of the study saves on each layer, by name; negative where it stores more than the model."""
    how = study.recipes[recipe]
    return {layer.name: layer_bytes(layer, None) - layer_bytes(layer, how) for layer in study.layers}
