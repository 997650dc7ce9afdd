"""What a search may choose from, and how near to its goal a scheme comes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sensitivity.records import Layer, Recipe
from sensitivity.records.results.latency import Latency
from sensitivity.records.results.tuned import Goal
from sensitivity.search.assignment import Assignment, bytes_under, uniform
from sensitivity.search.groups import Group
from sensitivity.search.trials import Trial

ROUNDING = 1e-9
"""By how much a drop may exceed the target, in its unit, and still count as equal to it."""


@dataclass(frozen=True)
class Space:
    """What a search may choose from.

    Attributes:
        layers: All layers of the model.
        groups: The same, those together that move together.
        candidates: The recipes.
        refused: Layers that a recipe does not fit, with the reason, by the recipe's name.
        goal: What is to be reached.
        scale: What stored drops are multiplied by for people.
        latency: What each layer takes on the engine, quantized and in float; None where nobody measured it.
    """

    layers: Sequence[Layer]
    groups: Sequence[Group]
    candidates: Sequence[Recipe]
    refused: Mapping[str, Mapping[str, str]]
    goal: Goal
    scale: float
    latency: Latency | None = None

    def everywhere(self, recipe: Recipe) -> Assignment:
        """A recipe for every group that it fits."""
        refused = self.refused.get(recipe.name, {})
        fitting = [group for group in self.groups if not any(layer.name in refused for layer in group)]
        return uniform([layer for group in fitting for layer in group], recipe)

    def price(self, layer: Layer) -> float:
        """What leaving a layer in float costs: seconds where the engine tells, multiply-adds and bytes otherwise."""
        if self.latency is not None:
            return max(self.latency.extra_at_most_s(layer.name), 0.0)
        return float((layer.macs or 0) + layer.weight_bytes)

    def seconds_under(self, assignment: Assignment) -> float | None:
        """Seconds that the engine is expected to take; None where it does not tell the time of single layers."""
        if self.latency is None:
            return None
        slow = [layer for layer in self.layers if not runs_in_integers(assignment.get(layer))]
        return self.latency.quantized_s + sum(self.latency.extra_s(layer.name) for layer in slow)

    def cost(self, assignment: Assignment) -> tuple[float, float]:
        """What a scheme costs: what its layers in float cost, then its bytes."""
        slow = [layer for layer in self.layers if not runs_in_integers(assignment.get(layer))]
        return sum(map(self.price, slow)), float(bytes_under(self.layers, assignment))

    def meets(self, trial: Trial) -> bool:
        """Whether a scheme meets the goal; its latency as the sum of its layers, until the engine has run it."""
        if math.isinf(drop_of_trial(trial)) or self.over_budget(trial.assignment) > 0.0:
            return False
        return self.goal.max_drop is None or drop_of_trial(trial) * self.scale <= self.goal.max_drop + ROUNDING

    def over_budget(self, assignment: Assignment) -> float:
        """Bytes and seconds beyond what the goal allows, each as a share of that; 0 within the budget."""
        beyond = 0.0
        if self.goal.size_bytes is not None:
            beyond += max(0.0, bytes_under(self.layers, assignment) / self.goal.size_bytes - 1.0)
        seconds = self.seconds_under(assignment)
        if self.goal.latency_s is not None and seconds is not None:
            beyond += max(0.0, seconds / self.goal.latency_s - 1.0)
        return beyond


def runs_in_integers(recipe: Recipe | None) -> bool:
    """Whether a layer multiplies integers: both weight and activations are quantized."""
    return recipe is not None and recipe.weights is not None and recipe.activations is not None


def drop_of_trial(trial: Trial) -> float:
    """The drop as stored; infinite where the measurement failed."""
    drop = trial.measurement.drop
    return math.inf if drop is None or math.isnan(drop) else drop
