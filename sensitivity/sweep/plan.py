"""Which perturbed models a sweep measures."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sensitivity.errors import RecipeError, SensitivityError
from sensitivity.records import Layer, Recipe

Direction = Literal["one-at-a-time", "all-but-one"]
DIRECTIONS = ("one-at-a-time", "all-but-one")


class AllBut(Mapping[Layer, Recipe]):
    """The same recipe for all layers but one; a view, so that a sweep of many layers holds each of them once.

    Args:
        layers: All layers in execution order, each with what it adds to a digest, in the order of the digest.
        recipe: What each gets.
        left_out: The one of them that gets nothing.
    """

    def __init__(self, layers: _Described, recipe: Recipe, left_out: Layer) -> None:
        self._layers = layers
        self._recipe = recipe
        self._left_out = left_out

    @property
    def descriptions(self) -> list[str]:
        """What its layers add to a digest, in order."""
        return [text for layer, text in self._layers.descriptions.items() if layer is not self._left_out]

    def __getitem__(self, layer: Layer) -> Recipe:
        if layer == self._left_out or layer not in self._layers.descriptions:
            raise KeyError(layer)
        return self._recipe

    def __iter__(self) -> Iterator[Layer]:
        return (layer for layer in self._layers.in_execution_order if layer is not self._left_out)

    def __len__(self) -> int:
        return len(self._layers.in_execution_order) - (self._left_out in self._layers.descriptions)


@dataclass(frozen=True)
class _Described:
    """Layers that get the same recipe.

    Attributes:
        in_execution_order: The layers.
        descriptions: What each adds to a digest, in the order of the digest.
    """

    in_execution_order: Sequence[Layer]
    descriptions: Mapping[Layer, str]

    @classmethod
    def of(cls, layers: Sequence[Layer], recipe: Recipe) -> _Described:
        """Describe layers once for all variants that perturb them."""
        digest = recipe.digest
        facts = {layer: _facts(layer, digest) for layer in layers}
        return cls(layers, {layer: repr(facts[layer]) for layer in sorted(layers, key=facts.__getitem__)})


def _facts(layer: Layer, recipe_digest: str) -> tuple[str, ...]:
    """What tells a perturbed layer from others, and from itself with another recipe."""
    norm, activation = str(layer.norm_module), str(layer.activation_module)
    return layer.name, layer.module, layer.weight, norm, activation, recipe_digest


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What is done to a model.

    Two are the same if they do the same to the model, whatever their recipes are called: everything that is known of
    one is kept by itself or by its ``digest``, and holds in every process and in later runs.

    Attributes:
        recipes: What every perturbed layer gets.
    """

    recipes: Mapping[Layer, Recipe]

    @property
    def name(self) -> str:
        """Name of a layer that it is about, for messages."""
        return next((layer.name for layer in self.recipes), "nothing")

    @property
    def distinct_recipes(self) -> set[Recipe]:
        """The recipes that it applies, each once."""
        layers = itertools.islice(self.recipes, 1) if isinstance(self.recipes, AllBut) else self.recipes
        return {self.recipes[layer] for layer in layers}

    @functools.cached_property
    def digest(self) -> str:
        """Hash of which modules are perturbed, and how; names of recipes do not count."""
        if isinstance(self.recipes, AllBut):
            descriptions = self.recipes.descriptions
        else:
            facts = sorted(_facts(layer, recipe.digest) for layer, recipe in self.recipes.items())
            descriptions = list(map(repr, facts))
        return hashlib.sha256(f"[{', '.join(descriptions)}]".encode()).hexdigest()[:32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Perturbation) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True, eq=False)
class Variant(Perturbation):
    """One perturbed model of a sweep: one layer perturbed by itself, or all but one.

    Attributes:
        layer: The layer that it measures.
        recipe: The recipe that it measures.
    """

    layer: Layer
    recipe: Recipe

    @classmethod
    def alone(cls, layer: Layer, recipe: Recipe) -> Variant:
        """One layer perturbed by itself."""
        return cls({layer: recipe}, layer, recipe)

    @property
    def name(self) -> str:
        """Name of the layer that it measures."""
        return self.layer.name


def plan_sweep(
    layers: Sequence[Layer],
    recipes: Sequence[Recipe],
    *,
    direction: Direction,
    why_unreached: Callable[[Layer, Recipe], str] = lambda *_: "",
) -> list[Variant]:
    """Every variant of a sweep, layers in execution order.

    Args:
        layers: The layers to measure.
        recipes: The recipes to measure each with.
        direction: ``one-at-a-time`` perturbs the layer alone, ``all-but-one`` all of ``layers`` but the layer.
        why_unreached: Why no range is known for a layer, which then stays in float where others are measured; empty
            where one is.

    Raises:
        RecipeError: If there is no recipe, two have the same name, or the direction is unknown.
    """
    names = [recipe.name for recipe in recipes]
    if not names or len(set(names)) != len(names):
        raise RecipeError(
            f"a sweep takes one or more recipes with different names, given: {', '.join(names) or 'none'}."
        )
    if not isinstance(direction, str) or direction not in DIRECTIONS:
        raise RecipeError(f"direction={direction!r} is not known. Choose one of: {', '.join(DIRECTIONS)}.")
    if direction == "one-at-a-time":
        return [Variant.alone(layer, recipe) for recipe in recipes for layer in layers]
    variants = []
    for recipe in recipes:
        described = _Described.of([layer for layer in layers if not _refused(why_unreached, layer, recipe)], recipe)
        variants += [Variant(AllBut(described, recipe, layer), layer, recipe) for layer in layers]
    return variants


def _refused(why_unreached: Callable[[Layer, Recipe], str], layer: Layer, recipe: Recipe) -> bool:
    try:
        return bool(why_unreached(layer, recipe))
    except SensitivityError:
        return False  # whatever it is, the rows that perturb the layer say it
