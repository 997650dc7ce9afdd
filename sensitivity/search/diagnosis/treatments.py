"""What is tried on a layer that is hurt: changes of its recipe that each mend one cause, and cures in order of cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sensitivity.records import QuantSpec, Recipe
from sensitivity.records.recipes.formats import find_format
from sensitivity.records.recipes.observers import find_observer
from sensitivity.records.results.diagnosis import DamageCause

CLIPPING = ("percentile", "mse")
"""Observers whose ranges leave the largest values out."""


@dataclass(frozen=True)
class Treatment:
    """One change of a recipe.

    Attributes:
        recipe: The changed recipe.
        cause: The cause that it mends alone; None where it mends several.
        is_cure: Whether engines run it as fast as the recipe itself.
        equalized: Whether it is tried on the copy of the model whose channels are equalized.
    """

    recipe: Recipe
    cause: DamageCause | None
    is_cure: bool = True
    equalized: bool = False


def treatments_of(recipe: Recipe) -> tuple[Treatment, ...]:
    """What may help a layer with this recipe, the cheapest cure first.

    All cures keep the formats' bits, and with them the layer's size and its speed on an engine that runs them.

    Args:
        recipe: What the layer has.
    """
    treatments = [*_of_activations(recipe), *_of_weights(recipe), *_of_errors(recipe)]
    names = dict.fromkeys(treatment.recipe.digest for treatment in treatments)
    names.pop(recipe.digest, None)
    first = {treatment.recipe.digest: treatment for treatment in reversed(treatments)}
    return tuple(first[digest] for digest in names)


def equalizing(recipe: Recipe) -> Treatment:
    """The same recipe on the copy of the model whose channels are equalized, which costs nothing when it runs."""
    return Treatment(_renamed(recipe, "equalized"), DamageCause.UNEVEN_CHANNELS, equalized=True)


def _of_activations(recipe: Recipe) -> list[Treatment]:
    spec = recipe.activations
    if spec is None:
        return []
    treatments = [
        Treatment(
            _activations(recipe, replace(spec, observer=observer, sample_every=1), observer), DamageCause.OUTLIERS
        )
        for observer in CLIPPING
    ]
    affine = _affine(spec)
    if affine is not None:
        treatments.append(Treatment(_activations(recipe, affine, "affine"), DamageCause.ONE_SIDED))
        clipped = replace(affine, observer="mse", sample_every=1)
        treatments.append(Treatment(_activations(recipe, clipped, "affine mse"), None))
        weights = recipe.weights
        if weights is not None and find_format(weights.format).kind == "integer":
            both = replace(recipe, weights=replace(weights, observer="mse"))
            treatments.append(Treatment(_activations(both, clipped, "affine mse, weights mse"), None))
    if spec.granularity == "per-tensor" and spec.axis is None:
        channels = replace(spec, granularity="per-channel", observer=_for_channels(spec), sample_every=1)
        per_channel = _activations(recipe, channels, "per channel")
        treatments.append(Treatment(per_channel, DamageCause.UNEVEN_CHANNELS, is_cure=False))
    return treatments


def _of_weights(recipe: Recipe) -> list[Treatment]:
    weights = recipe.weights
    if weights is None:
        return []
    treatments = []
    if find_format(weights.format).kind == "integer" and weights.observer != "mse":
        treatments.append(
            Treatment(_renamed(replace(recipe, weights=replace(weights, observer="mse")), "weights mse"), None)
        )
    if recipe.activations is not None or recipe.pruning is not None:
        plain = replace(recipe, weights=None)
        treatments.append(Treatment(_renamed(plain, "float weights"), DamageCause.WEIGHTS, is_cure=False))
    return treatments


def _of_errors(recipe: Recipe) -> list[Treatment]:
    """What is made of the statistics of the layer's inputs: a corrected bias, and rounding that compensates errors."""
    if recipe.placement != "deploy" or (recipe.weights is None and recipe.activations is None):
        return []
    corrected = replace(recipe, bias_correction=True)
    treatments = [Treatment(_renamed(corrected, "bias corrected"), DamageCause.BIAS_SHIFT)]
    if recipe.weights is not None and find_format(recipe.weights.format).kind == "integer":
        compensated = replace(recipe, rounding="compensated")
        treatments.append(Treatment(_renamed(compensated, "rounding compensated"), None))
    return treatments


def _affine(spec: QuantSpec) -> QuantSpec | None:
    """The same with a zero point; None where it has one, or its format can have none."""
    number_format = find_format(spec.format)
    if not spec.symmetric or number_format.kind != "integer":
        return None
    unsigned = "uint8" if spec.format == "int8" else spec.format
    return replace(spec, format=unsigned, symmetric=False)


def _for_channels(spec: QuantSpec) -> str:
    return spec.observer if "per-channel" in find_observer(spec.observer).granularities else "minmax"


def _activations(recipe: Recipe, spec: QuantSpec, change: str) -> Recipe:
    return _renamed(replace(recipe, activations=spec), change)


def _renamed(recipe: Recipe, change: str) -> Recipe:
    return recipe.renamed(f"{recipe.name}, {change}")
