"""The best int8 recipe that an engine runs exactly on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sensitivity.contracts import RunsGraph
from sensitivity.deploy.doctor.saturation import capabilities_here
from sensitivity.deploy.engines.registry import kind_of
from sensitivity.deploy.prepare.placement import Target, refusal
from sensitivity.errors import EngineError, RecipeError
from sensitivity.quantize.recipes import INT8, INT8_AFFINE
from sensitivity.records import Recipe
from sensitivity.records.arguments import checked

SAFE_WEIGHTS = "int7"
"""Codes of at most 63: two products with 8-bit activations fit 16 bits."""


@checked(EngineError)
def recipe_for(engine: str | Callable[..., RunsGraph]) -> Recipe:
    """The best int8 recipe that an engine runs exactly on this machine.

    ``sv.INT8_AFFINE`` where the engine knows zero points, else ``sv.INT8``; with weights in 7 bits where its sums of
    8-bit products would saturate here, as on an x86 CPU without VNNI: one convolution is tried, once in a process. An
    engine that cannot be tried on this machine is taken not to saturate.

    Args:
        engine: Name of an engine, or a function that makes one of an ONNX file's bytes.

    Raises:
        EngineError: If no engine has this name.
        RecipeError: If it runs no int8 recipe.

    Example:
        >>> recipe_for("tensorrt").name
        'int8'
    """
    capabilities = capabilities_here(engine)
    name = kind_of(engine).name
    reasons = []
    for preset in (INT8_AFFINE, INT8):
        recipe = without_saturation(preset) if capabilities.saturates else preset
        reason = refusal(recipe, Target(name, capabilities))
        if reason is None:
            return recipe
        reasons.append(f"{recipe.name}: {reason}")
    raise RecipeError(f"{name} runs no int8 recipe of this library. {' '.join(reasons)}")


def without_saturation(recipe: Recipe) -> Recipe:
    """The same with weights of few enough bits that no sum of two products leaves 16 bits.

    Args:
        recipe: Any; one whose weights are not in 8 bits is returned as it is.
    """
    if recipe.weights is None or recipe.weights.format != "int8":
        return recipe
    return replace(recipe, name=f"{recipe.name}-7bit-weights", weights=replace(recipe.weights, format=SAFE_WEIGHTS))
