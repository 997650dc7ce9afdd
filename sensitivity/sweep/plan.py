"""Which disturbed models a sweep measures."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sensitivity.errors import RecipeError
from sensitivity.records import Layer, Recipe

Direction = Literal["one-at-a-time", "all-but-one"]
DIRECTIONS = ("one-at-a-time", "all-but-one")


@dataclass(frozen=True)
class Variant:
    """One disturbed model.

    Attributes:
        layer: The layer that it measures.
        recipe: The recipe that it measures.
        recipes: What every disturbed layer gets: this one alone, or all but this one.
    """

    layer: Layer
    recipe: Recipe
    recipes: Mapping[Layer, Recipe]

    @functools.cached_property
    def digest(self) -> str:
        """Hash of which modules are disturbed, and how; names of recipes do not count."""
        parts = [
            (one.name, one.module, one.weight, str(one.norm_module), str(one.activation_module), recipe.digest)
            for one, recipe in self.recipes.items()
        ]
        return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()[:32]


def plan(layers: Sequence[Layer], recipes: Sequence[Recipe], *, direction: Direction) -> list[Variant]:
    """Every variant of a sweep, layers in execution order.

    Args:
        layers: The layers to measure.
        recipes: The recipes to measure each with.
        direction: ``one-at-a-time`` disturbs the layer alone, ``all-but-one`` all of ``layers`` but the layer.

    Raises:
        RecipeError: If there is no recipe, two have the same name, or the direction is unknown.
    """
    names = [recipe.name for recipe in recipes]
    if not names or len(set(names)) != len(names):
        raise RecipeError(
            f"a sweep takes one or more recipes with different names, given: {', '.join(names) or 'none'}."
        )
    if direction not in DIRECTIONS:
        raise RecipeError(f"direction {direction!r} is not known. Choose one of: {', '.join(DIRECTIONS)}.")
    variants = []
    for recipe in recipes:
        for layer in layers:
            alone = direction == "one-at-a-time"
            disturbed = {layer: recipe} if alone else {other: recipe for other in layers if other != layer}
            variants.append(Variant(layer, recipe, disturbed))
    return variants
