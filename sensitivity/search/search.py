"""The closed loop: whole networks first, then cures, then protection, each decided by the task's metric."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sensitivity.errors import SensitivityError, TaskError
from sensitivity.records import Layer, Recipe
from sensitivity.records.latency import Latency
from sensitivity.records.size import layer_bytes
from sensitivity.records.tuned import Goal, Step, StepKind
from sensitivity.search.assignment import Assignment, bytes_under, changed, uniform
from sensitivity.search.budget import Option, least_noise
from sensitivity.search.groups import Group
from sensitivity.search.proposals import Proposal, propose
from sensitivity.search.side import MakeSide, Side
from sensitivity.search.trials import Trial

ROUNDS = 3
"""Times that layers are looked for, from the best scheme so far."""

EQUALIZED_CANDIDATES = 2
"""Candidates, the best first, that are measured on the equalized copy as well, where none meets the target."""

RELEASED = 8
"""Protected groups, the least needed first, that are tried in int8 again once the goal is met."""


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
            return max(self.latency.extra_s(layer.name), 0.0)
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
        if math.isinf(drop_of(trial)) or self.over_budget(trial.assignment) > 0.0:
            return False
        return self.goal.max_drop is None or drop_of(trial) * self.scale <= self.goal.max_drop + ROUNDING

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


def drop_of(trial: Trial) -> float:
    """The drop as stored; infinite where the measurement failed."""
    drop = trial.measurement.drop
    return math.inf if drop is None or math.isnan(drop) else drop


class Search:
    """Measures schemes until one meets the goal.

    Args:
        space: What it may choose from.
        side: The model itself.
        equalize: Makes its equalized copy ready; None does without.

    Attributes:
        steps: What was tried, in order.
        tried: The same as measured.
        notes: What a reader should know.
    """

    def __init__(self, space: Space, side: Side, equalize: MakeSide | None = None) -> None:
        self.space = space
        self.steps: list[Step] = []
        self.tried: list[Trial] = []
        self.notes: list[str] = []
        self._side = side
        self._sides = {side.equalized: side}
        self._equalize = equalize

    def run(self) -> Trial:
        """The cheapest scheme that meets the goal, the best of those that cost the same; or the nearest to it."""
        self._whole_networks()
        if self.space.goal.size_bytes is not None or self.space.goal.latency_s is not None:
            self._within_budget()
        if self.space.goal.max_drop is not None and not self.met:
            self._equalized_networks()
        if self.space.goal.max_drop is not None and not self.met:
            self._layer_by_layer()
        return self._settle()

    @property
    def images(self) -> int:
        """Images of the task."""
        return self._side.trials.images

    @property
    def met(self) -> bool:
        """Whether a scheme that was measured meets the goal."""
        return any(map(self.space.meets, self.tried))

    def best(self) -> Trial:
        """Of what was tried: the cheapest that meets the goal, or the nearest to it."""
        meeting = [trial for trial in self.tried if self.space.meets(trial)]
        if meeting and self.space.goal.max_drop is not None:
            return min(meeting, key=lambda trial: (self.space.cost(trial.assignment), drop_of(trial)))
        if meeting:
            return min(meeting, key=drop_of)
        return min(self.tried, key=self._distance)

    def _distance(self, trial: Trial) -> tuple[float, float]:
        """How far from the goal: what is beyond the budget first, then the drop."""
        return self.space.over_budget(trial.assignment), drop_of(trial)

    def _whole_networks(self) -> None:
        space = self.space
        self._try(
            [
                _Plan(StepKind.CANDIDATE, f"{recipe.name} for all layers", space.everywhere(recipe), (), recipe.name)
                for recipe in space.candidates
            ]
        )

    def _equalized_networks(self) -> None:
        """The best candidates once more, on the copy whose channels are equalized."""
        if self._equalize is None:
            return
        whole = [trial for trial in self.tried if trial.assignment]
        best = sorted(whole, key=self._distance)[:EQUALIZED_CANDIDATES]
        plans = []
        for trial in best:
            step = self.steps[self.tried.index(trial)]
            plans.append(_Plan(step.kind, f"{step.what}, equalized", trial.assignment, step.layers, step.recipe))
        try:
            self._sides[True] = self._side = self._equalize()
            self._try(plans)
        except SensitivityError as error:
            self.notes.append(f"the equalized copy was not tried: {error}")
        self._side = self._sides[self.best().equalized]

    def _within_budget(self) -> None:
        """What the solver chooses, measured; nothing where no choice is within the budget."""
        space, options, passes = self.space, *self._options()
        chosen = least_noise(options, self._budget())
        assignment: Assignment = {}
        for option in chosen or ():
            if option.recipe is not None:
                assignment = changed(assignment, option.group, option.recipe)
        if chosen is None or not assignment:
            return
        fidelity = self._side.of([assignment], replay=False)[0]
        size = space.goal.size_bytes
        budget = f"{size} bytes" if size is not None else f"{1e3 * (space.goal.latency_s or 0.0):.3g} ms"
        plan = _Plan(
            StepKind.BUDGET,
            f"least noise within {budget}",
            assignment,
            _names(chosen),
            "",
            predicted_db=None if fidelity is None else _decibel(fidelity.signal, sum(o.noise for o in chosen)),
            output_db=None if fidelity is None else fidelity.sqnr_db,
        )
        self._try([plan], passes=passes + self._share(1))

    def _budget(self) -> float:
        """What the options may cost together: bytes, or seconds beyond those with every layer quantized."""
        goal, latency = self.space.goal, self.space.latency
        if goal.size_bytes is not None:
            return float(goal.size_bytes)
        return math.inf if goal.latency_s is None or latency is None else goal.latency_s - latency.quantized_s

    def _options(self) -> tuple[list[Option], float]:
        """Every group with every recipe, alone in the float network, and the passes that it took."""
        space = self.space
        ways = [
            (group, recipe)
            for group in space.groups
            for recipe in space.candidates
            if not any(layer.name in space.refused.get(recipe.name, {}) for layer in group)
        ]
        fidelities = self._side.of([uniform(group, recipe) for group, recipe in ways], replay=True)
        options = [Option(group, None, 0.0, self._takes(group, None)) for group in space.groups]
        for (group, recipe), fidelity in zip(ways, fidelities, strict=True):
            if fidelity is not None:
                options.append(Option(group, recipe, fidelity.noise, self._takes(group, recipe)))
        return options, self._share(len(ways))

    def _takes(self, group: Group, recipe: Recipe | None) -> float:
        """What a group takes of the budget."""
        if self.space.goal.size_bytes is not None:
            return float(sum(layer_bytes(layer, recipe) for layer in group))
        latency = self.space.latency
        if latency is None or runs_in_integers(recipe):
            return 0.0
        return sum(latency.extra_s(layer.name) for layer in group)

    def _layer_by_layer(self) -> None:
        space = self.space
        for _ in range(ROUNDS):
            base = self.best()
            self._side = self._sides[base.equalized]
            proposals = propose(
                self._side, base.assignment, space.groups, space.candidates, cost=space.price, refused=space.refused
            )
            passes = self._share(proposals.passes)
            cured = self._cure(base, proposals.cures, passes)
            if self.met:
                break
            self._protect(cured, proposals.protections, 0.0 if proposals.cures else passes)
            if self.met or self.best() is base:
                break
        if self.met:
            self._release()

    def _cure(self, base: Trial, cures: Sequence[Proposal], passes: float) -> Trial:
        """The best of the first, the first two, the first four ... and all cures; the base where none is better."""
        best = base
        for count in _ladder(len(cures)):
            assignment = base.assignment
            for proposal in cures[:count]:
                assignment = changed(assignment, proposal.group, proposal.recipe)
            names = _names(cures[:count])
            recipes = {proposal.recipe.name for proposal in cures[:count] if proposal.recipe is not None}
            recipe = recipes.pop() if len(recipes) == 1 else ""
            description = f"{recipe or 'other recipes'} for {_count(names)}"
            trial = self._try([_Plan(StepKind.CURE, description, assignment, names, recipe)], passes=passes)[0]
            passes = 0.0
            if drop_of(trial) < drop_of(best):
                best = trial
            if self.space.meets(trial):
                break
        return best

    def _protect(self, base: Trial, protections: Sequence[Proposal], passes: float) -> None:
        """As many groups back in float as the goal needs: doubled until it is met, then the fewest in between."""
        failing = 0
        for count in _ladder(len(protections)):
            if self.space.meets(self._protected(base, protections[:count], passes)):
                break
            failing, passes = count, 0.0
        else:
            return
        meeting = count
        while meeting - failing > 1:
            middle = (meeting + failing) // 2
            if self.space.meets(self._protected(base, protections[:middle], 0.0)):
                meeting = middle
            else:
                failing = middle

    def _protected(self, base: Trial, proposals: Sequence[Proposal], passes: float) -> Trial:
        assignment = base.assignment
        for proposal in proposals:
            assignment = changed(assignment, proposal.group, None)
        names = _names(proposals)
        plan = _Plan(StepKind.PROTECT, f"{_count(names)} in float", assignment, names, "")
        return self._try([plan], passes=passes)[0]

    def _release(self) -> None:
        """Quantize protected groups again, one at a time, as long as the goal stays met."""
        space = self.space
        for group in space.groups:
            best = self.best()
            protected = [layer for layer in group if layer not in best.assignment]
            recipe = self._recipe_before(group)
            if not protected or recipe is None or sum(s.kind is StepKind.RELEASE for s in self.steps) >= RELEASED:
                continue
            names = tuple(layer.name for layer in group)
            assignment = changed(best.assignment, group, recipe)
            if any(trial.assignment == assignment and trial.equalized == best.equalized for trial in self.tried):
                continue
            self._try([_Plan(StepKind.RELEASE, f"{_count(names)} quantized again", assignment, names, recipe.name)])

    def _recipe_before(self, group: Group) -> Recipe | None:
        """What a group had in the last scheme that quantized it."""
        for trial in reversed(self.tried):
            if group[0] in trial.assignment:
                return trial.assignment[group[0]]
        return None

    def _settle(self) -> Trial:
        """The best scheme, measured on all images: what ``stop=`` had decided on fewer is looked at again.

        Raises:
            TaskError: If every measurement failed.
        """
        while True:
            best = self.best()
            if math.isinf(drop_of(best)):
                raise TaskError(f"none of the schemes could be measured: {best.measurement.reason}")
            if best.measurement.images == self.images:
                self._mark(best)
                return best
            again = self._sides[best.equalized].measure([best.assignment], all_images=True)[0]
            place = self.tried.index(best)
            self.tried[place] = again
            self.steps[place] = replace(
                self.steps[place],
                **_facts(again, self.space),
                passes=self.steps[place].passes + again.passes,
            )

    def _mark(self, chosen: Trial) -> None:
        place = self.tried.index(chosen)
        self.steps[place] = replace(self.steps[place], chosen=True)

    def _try(self, plans: Sequence[_Plan], *, passes: float = 0.0) -> list[Trial]:
        """Measure schemes, and note each as a step."""
        started = time.perf_counter()
        in_float = not any(plan.assignment for plan in plans)  # that is the model itself, also where its copy was tried
        side = self._sides[False] if in_float else self._side
        trials = side.measure([plan.assignment for plan in plans])
        seconds = (time.perf_counter() - started) / len(plans)
        for number, (plan, trial) in enumerate(zip(plans, trials, strict=True)):
            before = min(map(drop_of, self.tried), default=math.inf)
            drop = drop_of(trial)
            step = Step(
                kind=plan.kind,
                what=plan.what,
                layers=plan.layers,
                recipe=plan.recipe,
                score=None,
                drop=None,
                bought=None if math.isinf(drop) or math.isinf(before) else before - drop,
                size_bytes=bytes_under(self.space.layers, plan.assignment),
                in_float=sum(layer not in plan.assignment for layer in self.space.layers),
                passes=trial.passes + (passes if number == 0 else 0.0),
                seconds=seconds,
                equalized=trial.equalized,
                predicted_db=plan.predicted_db,
                output_db=plan.output_db,
            )
            self.steps.append(replace(step, **_facts(trial, self.space)))
            self.tried.append(trial)
        return trials

    def _share(self, passes: int) -> float:
        """Passes over the images compared, as passes over the task."""
        return passes * self._side.images / max(1, self.images)


@dataclass(frozen=True)
class _Plan:
    """A scheme that is about to be measured."""

    kind: StepKind
    what: str
    assignment: Assignment
    layers: tuple[str, ...]
    recipe: str
    predicted_db: float | None = None
    output_db: float | None = None


def _facts(trial: Trial, space: Space) -> dict[str, Any]:
    """What a step tells of a measurement."""
    row = trial.measurement
    return {
        "score": row.score,
        "drop": row.drop,
        "drop_low": row.drop_low,
        "drop_high": row.drop_high,
        "images": row.images,
        "meets": None if math.isinf(drop_of(trial)) else space.meets(trial),
        "reason": "" if row.score is not None else row.reason,
    }


def _ladder(count: int) -> Iterator[int]:
    """1, 2, 4, 8 ... and in the end the count itself."""
    step = 1
    while step < count:
        yield step
        step *= 2
    if count:
        yield count


def _names(choices: Sequence[Proposal | Option]) -> tuple[str, ...]:
    """Names of all layers that get a recipe, or are left in float."""
    return tuple(layer.name for choice in choices for layer in choice.group)


def _count(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} layers"


def _decibel(signal: float, noise: float) -> float | None:
    """Signal over noise in dB; None where one of them is zero."""
    return 10.0 * math.log10(signal / noise) if signal > 0.0 and noise > 0.0 else None
