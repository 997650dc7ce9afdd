"""How long an engine takes for each layer, quantized and in float: what a latency budget is spent on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from sensitivity.errors import StudyError
from sensitivity.records.info import Times
from sensitivity.records.recipe import Recipe
from sensitivity.records.study import StudyRecord

AnyStudy = TypeVar("AnyStudy", bound=StudyRecord)


@dataclass(frozen=True, slots=True)
class Latency:
    """Measured times of one model on one engine, for its example inputs, in seconds.

    Attributes:
        model: Name of the model.
        recipe: What the quantized layers had.
        engine: Name of the engine.
        quantized_s: Median time of the whole graph with every layer quantized.
        float_s: The same with none.
        layers: For each layer the time quantized, and the time in float. A fused operation's time is shared by its
            layers; what quantizing costs between layers is in ``quantized_s`` alone.
    """

    model: str
    recipe: Recipe
    engine: str
    quantized_s: float
    float_s: float
    layers: Mapping[str, tuple[float, float]]

    def extra_s(self, layer: str) -> float:
        """Seconds that protecting a layer costs; below zero where the engine is faster in float."""
        quantized, in_float = self.layers.get(layer, (0.0, 0.0))
        return in_float - quantized


def with_latency(study: AnyStudy, latency: Latency) -> AnyStudy:
    """The same study with the times of one of its recipes.

    Raises:
        StudyError: If the study has no such recipe, or the times are of other layers.
    """
    name = next((key for key, recipe in study.recipes.items() if recipe.digest == latency.recipe.digest), None)
    if name is None:
        raise StudyError(
            f"the times are of recipe {latency.recipe.name!r}, which does something else than this study's: "
            f"{', '.join(study.recipes)}. Measure a recipe of the study."
        )
    strangers = sorted(latency.layers.keys() - {layer.name for layer in study.layers})
    if strangers:
        raise StudyError(f"times of layers that this study does not have: {', '.join(strangers[:3])}. Other model?")
    times = Times(latency.engine, latency.quantized_s, latency.float_s, latency.layers)
    return replace(study, info=replace(study.info, latency={**(study.info.latency or {}), name: times}))


def latency_of(study: StudyRecord, recipe: str) -> Latency | None:
    """The times that ``with_latency`` added for a recipe, or None."""
    times = (study.info.latency or {}).get(recipe)
    if times is None:
        return None
    return Latency(
        study.model, study.recipes[recipe], times.engine, times.quantized_s, times.float_s, dict(times.layers)
    )
