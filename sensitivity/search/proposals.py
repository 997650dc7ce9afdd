"""Which layers to cure or to protect next, inside the quantized network as it is now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sensitivity.records import Layer, Recipe
from sensitivity.search.assignment import Assignment, changed
from sensitivity.search.groups import Group
from sensitivity.search.noise import OutputNoise

CURED_GROUPS = 12
"""Groups whose cures are looked for: those whose protection would take away the most noise."""

WORTH = 0.01
"""Share of the network's noise that a proposal must take away."""


@dataclass(frozen=True)
class Proposal:
    """A change of one group that makes the outputs better.

    Attributes:
        group: The layers.
        recipe: What they get; None leaves them in float.
        gain: Share of the network's output noise that it takes away.
    """

    group: Group
    recipe: Recipe | None
    gain: float


@dataclass(frozen=True)
class Proposals:
    """What to try on a scheme, best first.

    Attributes:
        cures: Other recipes, one at most for each group.
        protections: Groups to leave in float.
        passes: Passes over the images compared that it took to find them.
    """

    cures: tuple[Proposal, ...]
    protections: tuple[Proposal, ...]
    passes: int


def propose(
    noise: OutputNoise,
    assignment: Assignment,
    groups: Sequence[Group],
    candidates: Sequence[Recipe],
    *,
    cost: Callable[[Layer], float],
    refused: Mapping[str, Collection[str]],
) -> Proposals:
    """Give each group float, and the worst ones each other recipe, inside a scheme, and see what the outputs gain.

    Args:
        noise: Compares outputs.
        assignment: The scheme as it is now.
        groups: All groups.
        candidates: The recipes that a cure may use.
        cost: What leaving a layer in float costs.
        refused: Names of layers that a recipe does not fit, by the recipe's name.
    """
    quantized = [group for group in groups if any(layer in assignment for layer in group)]
    in_float = [changed(assignment, group, None) for group in quantized]
    before, *after = noise.of([assignment, *in_float], replay=False)
    total = before.noise if before is not None else 0.0
    if total <= 0.0:
        return Proposals((), (), 1 + len(in_float))
    gains = [0.0 if found is None else 1.0 - found.noise / total for found in after]
    protections = [Proposal(group, None, gain) for group, gain in zip(quantized, gains, strict=True)]
    worst = sorted(protections, key=lambda proposal: proposal.gain, reverse=True)[:CURED_GROUPS]
    trials = [
        (proposal.group, recipe)
        for proposal in worst
        if proposal.gain > WORTH
        for recipe in candidates
        if any(assignment.get(layer) != recipe for layer in proposal.group)
        and not any(layer.name in refused.get(recipe.name, ()) for layer in proposal.group)
    ]
    cured = noise.of([changed(assignment, group, recipe) for group, recipe in trials], replay=False)
    cures: dict[Group, Proposal] = {}
    for (group, recipe), found in zip(trials, cured, strict=True):
        gain = 0.0 if found is None else 1.0 - found.noise / total
        if gain > WORTH and (group not in cures or gain > cures[group].gain):
            cures[group] = Proposal(group, recipe, gain)
    return Proposals(
        tuple(sorted(cures.values(), key=lambda proposal: proposal.gain, reverse=True)),
        tuple(_by_worth(protections, cost)),
        1 + len(in_float) + len(trials),
    )


def _by_worth(protections: Sequence[Proposal], cost: Callable[[Layer], float]) -> list[Proposal]:
    """Groups that matter first, each by what it gains for what it costs; then the others, the least harm last."""

    def worth(proposal: Proposal) -> tuple[bool, float]:
        price = sum(cost(layer) for layer in proposal.group)
        return proposal.gain > WORTH, proposal.gain / max(price, 1e-30)

    return sorted(protections, key=worth, reverse=True)
