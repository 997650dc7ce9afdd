"""Which layers to cure or to protect next, inside the quantized network as it is now."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sensitivity.records import Layer, Recipe
from sensitivity.search.assignment import Assignment, changed
from sensitivity.search.groups import Group
from sensitivity.sweep.signals.fidelity import Fidelity

SUSPECTS = 16
"""Groups that are looked at inside the quantized network: those that make the most noise when quantized alone."""

CURED_GROUPS = 12
"""Suspects whose cures are looked for: those whose protection would take away the most noise."""

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


class ComparesOutputs(Protocol):
    """Tells how far schemes move the model's outputs."""

    def of(
        self, assignments: Sequence[Assignment], *, replay: bool, network: Assignment | None = None
    ) -> list[Fidelity | None]:
        """Signal and noise of each scheme; see ``OutputNoise.of``."""


def propose(
    noise: ComparesOutputs,
    assignment: Assignment,
    groups: Sequence[Group],
    candidates: Sequence[Recipe],
    *,
    cost: Callable[[Layer], float],
    refused: Mapping[str, Collection[str]],
) -> Proposals:
    """Leave groups in float, and give the worst each other recipe, inside a scheme; see what the outputs gain.

    Groups that make little noise by themselves are not tried inside: noise powers nearly add up.

    Args:
        noise: Compares outputs.
        assignment: The scheme as it is now.
        groups: All groups.
        candidates: The recipes that a cure may use.
        cost: What leaving a layer in float costs.
        refused: Names of layers that a recipe does not fit, by the recipe's name.
    """
    quantized = [group for group in groups if any(layer in assignment for layer in group)]
    alone = noise.of([_only(assignment, group) for group in quantized], replay=True)
    loud = {group: fidelity.noise for group, fidelity in zip(quantized, alone, strict=True) if fidelity is not None}
    ranked = sorted(quantized, key=lambda group: loud.get(group, math.inf), reverse=True)
    suspects, remaining = ranked[:SUSPECTS], ranked[SUSPECTS:]
    inside = [assignment, *(changed(assignment, group, None) for group in suspects)]
    before, *after = noise.of(inside, replay=True, network=assignment)
    total = before.noise if before is not None else 0.0
    passes = 1 + len(quantized) + len(suspects)
    if total <= 0.0:
        return Proposals((), (), passes)
    gains = [0.0 if fidelity is None else 1.0 - fidelity.noise / total for fidelity in after]
    protections = [Proposal(group, None, gain) for group, gain in zip(suspects, gains, strict=True)]
    unproven = [Proposal(group, None, loud.get(group, 0.0) / total) for group in remaining]
    worst = sorted(protections, key=lambda proposal: proposal.gain, reverse=True)[:CURED_GROUPS]
    trials = [
        (proposal.group, recipe)
        for proposal in worst
        if proposal.gain > WORTH
        for recipe in candidates
        if any(assignment.get(layer) != recipe for layer in proposal.group)
        and not any(layer.name in refused.get(recipe.name, ()) for layer in proposal.group)
    ]
    inside = [changed(assignment, group, recipe) for group, recipe in trials]
    fidelities = noise.of(inside, replay=True, network=assignment)
    cures: dict[Group, Proposal] = {}
    for (group, recipe), cured in zip(trials, fidelities, strict=True):
        gain = 0.0 if cured is None else 1.0 - cured.noise / total
        if gain > WORTH and (group not in cures or gain > cures[group].gain):
            cures[group] = Proposal(group, recipe, gain)
    return Proposals(
        tuple(sorted(cures.values(), key=lambda proposal: proposal.gain, reverse=True)),
        (*_by_worth(protections, cost), *_by_worth(unproven, cost)),
        passes + len(trials),
    )


def _only(assignment: Assignment, group: Group) -> Assignment:
    return {layer: assignment[layer] for layer in group if layer in assignment}


def _by_worth(protections: Sequence[Proposal], cost: Callable[[Layer], float]) -> list[Proposal]:
    """Groups that matter first, each by what it gains for what it costs; then the others, the least harm last."""

    def worth(proposal: Proposal) -> tuple[bool, float]:
        price = sum(cost(layer) for layer in proposal.group)
        return proposal.gain > WORTH, proposal.gain / max(price, 1e-30)

    return sorted(protections, key=worth, reverse=True)
