"""Recipes that are tried for the whole network before any layer gets one of its own."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.deploy.prepare.placement import Target, refusal
from sensitivity.errors import EngineError, RecipeError
from sensitivity.quantize.recipes import INT8
from sensitivity.records import QuantSpec, Recipe

_WEIGHTS = QuantSpec("int8", "per-channel", observer="mse")


def _affine(name: str, observer: str, weights: QuantSpec = _WEIGHTS) -> Recipe:
    return Recipe(name, weights=weights, activations=QuantSpec("uint8", symmetric=False, observer=observer))


EIGHT_BITS = (
    INT8,
    _affine("int8-affine-minmax", "minmax", QuantSpec("int8", "per-channel")),
    Recipe("int8-percentile", weights=_WEIGHTS, activations=QuantSpec("int8", observer="percentile")),
    _affine("int8-affine-percentile", "percentile"),
    _affine("int8-affine-mse", "mse"),
)
"""Ranges and zero points for weights and activations in 8 bits: all of the same size and speed."""

FEWER_BITS = (
    _affine("int6-weights-affine-mse", "mse", QuantSpec("int6", "per-channel", observer="mse")),
    _affine("int4-weights-affine-mse", "mse", QuantSpec("int4", "per-channel", observer="mse")),
)
"""What a budget of bytes may need as well."""


def usual_candidates(*, fewer_bits: bool) -> tuple[Recipe, ...]:
    """The recipes that are tried where the caller names none.

    Args:
        fewer_bits: Also recipes with weights in fewer than 8 bits.
    """
    return (*EIGHT_BITS, *(FEWER_BITS if fewer_bits else ()))


def check_candidates(candidates: object) -> tuple[Recipe, ...]:
    """The candidates as a tuple; what is none, or has the name of another one, is refused.

    Raises:
        RecipeError: If there is none, something else is among them, or a name stands twice.
    """
    given = [candidates] if isinstance(candidates, Recipe) else candidates
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)) or not given:
        raise RecipeError(f"candidates={candidates!r:.80}: give one or more recipes in a list, e.g. [sv.INT8].")
    wrong = [candidate for candidate in given if not isinstance(candidate, Recipe)]
    if wrong:
        raise RecipeError(f"candidates holds {wrong[0]!r:.80}, which is no recipe. Give e.g. [sv.INT8].")
    names = [candidate.name for candidate in given]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RecipeError(f"two candidates are called {twice!r}. Give them different names: recipe.renamed(...).")
    return tuple(given)


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
            f"{target.name} runs none of the candidates. {' '.join(notes)} Give candidates= that it runs, or "
            "engine=None to search in the simulation alone."
        )
    return able, notes
