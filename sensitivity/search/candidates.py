"""Recipes that are tried for the whole network before any layer gets one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sensitivity.deploy.doctor.recipe_for import without_saturation
from sensitivity.deploy.prepare.placement import Target, refusal
from sensitivity.errors import EngineError, RecipeError
from sensitivity.quantize.recipes import INT8, INT8_AFFINE
from sensitivity.records import QuantSpec, Recipe

_WEIGHTS = QuantSpec("int8", "per-channel", observer="mse")
_AFFINE_PERCENTILE = QuantSpec("uint8", symmetric=False, observer="percentile", sample_every=8)

EIGHT_BITS = (
    INT8,
    INT8_AFFINE,
    Recipe("int8-affine-percentile", weights=_WEIGHTS, activations=_AFFINE_PERCENTILE),
    replace(INT8_AFFINE, name="int8-affine-corrected", bias_correction=True),
)
"""Ranges, zero points and corrected biases for weights and activations in 8 bits: all of the same size and speed."""

COMPENSATED = replace(INT8_AFFINE, name="int8-affine-compensated", rounding="compensated", bias_correction=True)
"""Tried where weights have 7 bits: compensated rounding and corrected biases win back some of what the bit holds."""

FEWER_BITS = tuple(
    replace(
        INT8_AFFINE,
        name=f"int{bits}-weights-affine",
        weights=replace(_WEIGHTS, format=f"int{bits}"),
        rounding="compensated",
        bias_correction=True,
    )
    for bits in (6, 4)
)
"""What a budget of bytes may need as well."""


def usual_candidates(*, fewer_bits: bool, saturates: bool) -> tuple[Recipe, ...]:
    """The recipes that are tried where the caller names none, each once.

    Args:
        fewer_bits: Also recipes with weights in fewer than 8 bits.
        saturates: Whether the engine's sums of 8-bit products saturate on this machine: weights in 7 bits do not.
    """
    recipes = (*EIGHT_BITS, *((COMPENSATED,) if saturates else ()), *(FEWER_BITS if fewer_bits else ()))
    safe = [without_saturation(recipe) for recipe in recipes] if saturates else recipes
    return tuple({recipe.digest: recipe for recipe in reversed(safe)}.values())[::-1]


def check_candidates(candidates: object) -> tuple[Recipe, ...]:
    """The candidates as a tuple; what is none, or has the name of another one, is refused.

    Raises:
        RecipeError: If there is none, something else is among them, or a name stands twice.
    """
    recipes = [candidates] if isinstance(candidates, Recipe) else candidates
    if not isinstance(recipes, Sequence) or isinstance(recipes, (str, bytes)) or not recipes:
        raise RecipeError(f"candidates={candidates!r:.80}: give one or more recipes in a list, e.g. [sv.INT8].")
    wrong = [candidate for candidate in recipes if not isinstance(candidate, Recipe)]
    if wrong:
        raise RecipeError(f"candidates holds {wrong[0]!r:.80}, which is no recipe. Give e.g. [sv.INT8].")
    names = [candidate.name for candidate in recipes]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RecipeError(
            f"two candidates are called {twice!r}.",
            python="Give them different names: recipe.renamed(...).",
            shell='Give each once with --recipe, or another "name" in its JSON file.',
        )
    return tuple(recipes)


def runnable(candidates: Sequence[Recipe], target: Target | None) -> tuple[list[Recipe], list[str]]:
    """The candidates that an engine runs, and why it does not run the others.

    Args:
        candidates: What may be tried.
        target: What the engine runs; None where the scheme is only simulated.

    Raises:
        EngineError: If it runs none of them.
    """
    if target is None:
        return list(candidates), []
    reasons = {candidate.name: refusal(candidate, target) for candidate in candidates}
    able = [candidate for candidate in candidates if reasons[candidate.name] is None]
    notes = [f"{name} was not tried: {reason}" for name, reason in reasons.items() if reason is not None]
    if not able:
        raise EngineError(
            f"{target.name} runs none of the candidates. {' '.join(notes)}",
            python="Give candidates= that it runs, or engine=None to search in the simulation alone.",
            shell="Give recipes that it runs with --recipe, or --engine none to search in the simulation alone.",
        )
    return able, notes
