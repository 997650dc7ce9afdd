"""Which layer gets which recipe, resolved: what a search changes step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sensitivity.records import Layer, Recipe, Scheme
from sensitivity.records.recipes.scheme import EVERYTHING, Rule
from sensitivity.records.size import layer_bytes

Assignment = Mapping[Layer, Recipe]
"""The recipe of each quantized layer; layers that stay in float are absent."""


def uniform(layers: Iterable[Layer], recipe: Recipe) -> Assignment:
    """The same recipe for all of these layers."""
    return dict.fromkeys(layers, recipe)


def changed(assignment: Assignment, layers: Iterable[Layer], recipe: Recipe | None) -> Assignment:
    """The same with some layers given another recipe, or left in float."""
    group = set(layers)
    unchanged = {layer: own for layer, own in assignment.items() if layer not in group}
    return unchanged if recipe is None else {**unchanged, **dict.fromkeys(group, recipe)}


def bytes_under(layers: Iterable[Layer], assignment: Assignment) -> int:
    """Bytes of all layers' parameters."""
    return sum(layer_bytes(layer, assignment.get(layer)) for layer in layers)


def scheme_of(layers: Sequence[Layer], assignment: Assignment, reasons: Mapping[str, str]) -> Scheme:
    """The assignment as a scheme: one rule for all layers, and one for each layer that is another way.

    Args:
        layers: All layers of the model.
        assignment: What each quantized layer gets.
        reasons: Layers in float to the reason.
    """
    size = bytes_under(layers, assignment)
    if not assignment:
        return Scheme(reasons=dict(reasons), size_bytes=size)
    usual, _ = Counter(assignment[layer] for layer in layers if layer in assignment).most_common(1)[0]
    exceptions = [Rule(layer.name, assignment.get(layer)) for layer in layers if assignment.get(layer) != usual]
    return Scheme((Rule(EVERYTHING, usual), *exceptions), reasons=dict(reasons), size_bytes=size)
