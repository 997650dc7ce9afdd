"""The recipes that harm least under a budget, by an exact solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.records import Recipe
from sensitivity.records.size import layer_bytes
from sensitivity.search.assignment import uniform
from sensitivity.search.groups import Group
from sensitivity.search.side import Side
from sensitivity.search.space import Space, runs_in_integers


@dataclass(frozen=True)
class Option:
    """One way to run one group.

    Attributes:
        group: The layers.
        recipe: What they get; None leaves them in float.
        noise: What that adds to the noise of the outputs.
        cost: What it takes of the budget.
    """

    group: Group
    recipe: Recipe | None
    noise: float
    cost: float


def budget_of(space: Space) -> float:
    """What the options may cost together: bytes, or seconds beyond those with every layer quantized."""
    goal, latency = space.goal, space.latency
    if goal.size_bytes is not None:
        return float(goal.size_bytes)
    return math.inf if goal.latency_s is None or latency is None else goal.latency_s - latency.quantized_s


def options_of(space: Space, side: Side) -> tuple[list[Option], int]:
    """Every group with every recipe, alone in the float network, and the passes over the compared images it took."""
    ways = [
        (group, recipe)
        for group in space.groups
        for recipe in space.candidates
        if not any(layer.name in space.refused.get(recipe.name, {}) for layer in group)
    ]
    fidelities = side.of([uniform(group, recipe) for group, recipe in ways], replay=True)
    options = [Option(group, None, 0.0, _cost(space, group, None)) for group in space.groups]
    for (group, recipe), fidelity in zip(ways, fidelities, strict=True):
        if fidelity is not None:
            options.append(Option(group, recipe, fidelity.noise, _cost(space, group, recipe)))
    return options, len(ways)


def _cost(space: Space, group: Group, recipe: Recipe | None) -> float:
    """What a group takes of the budget."""
    if space.goal.size_bytes is not None:
        return float(sum(layer_bytes(layer, recipe) for layer in group))
    if space.latency is None or runs_in_integers(recipe):
        return 0.0
    return sum(space.latency.extra_at_most_s(layer.name) for layer in group)


def cheapest(options: Sequence[Option]) -> float:
    """The least that one option for every group costs."""
    least: dict[Group, float] = {}
    for option in options:
        least[option.group] = min(option.cost, least.get(option.group, np.inf))
    return sum(least.values())


def least_noise(options: Sequence[Option], budget: float) -> list[Option] | None:
    """One option for each group: the least noise in sum whose cost in sum is within the budget.

    Noise powers of layers that are quantized alone add up where their errors are independent.

    Args:
        options: All of them; one at least for each group.
        budget: Most that they may cost together.

    Returns:
        The chosen options in the order of their groups; None where no choice is within the budget.

    Source: integer linear programming as in HAWQ-V3 (Yao et al., ICML 2021, section 3.4), solved by HiGHS to the end.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    if cheapest(options) > budget:
        return None
    groups = list(dict.fromkeys(option.group for option in options))
    one_each = np.zeros((len(groups), len(options)))
    for place, option in enumerate(options):
        one_each[groups.index(option.group), place] = 1.0
    costs = np.array([option.cost for option in options])
    noises = np.array([option.noise for option in options])
    constraints = [LinearConstraint(one_each, 1.0, 1.0)]
    if np.isfinite(budget):
        scale = max(budget, 1e-30)
        constraints.append(LinearConstraint(costs[None, :] / scale, -np.inf, budget / scale))
    result = milp(
        noises / max(noises.max(initial=0.0), 1e-30),
        integrality=np.ones(len(options)),
        bounds=Bounds(0.0, 1.0),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None
    chosen = [option for option, share in zip(options, result.x, strict=True) if share > 0.5]
    return sorted(chosen, key=lambda option: groups.index(option.group))
