"""The closed loop: whole networks first, then cures, then protection, each decided by the task's metric."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sensitivity.errors import SensitivityError, TaskError
from sensitivity.records import Recipe
from sensitivity.records.decibels import decibels
from sensitivity.records.results.tuned import Step, StepKind
from sensitivity.search.assignment import Assignment, bytes_under, changed
from sensitivity.search.budget import Option, budget_of, least_noise, options_of
from sensitivity.search.groups import Group
from sensitivity.search.proposals import Proposal, propose
from sensitivity.search.side import MakeSide, Side
from sensitivity.search.space import Space, drop_of_trial
from sensitivity.search.trials import Trial

ROUNDS = 3
"""Times that layers are looked for, from the best scheme so far."""

EQUALIZED_CANDIDATES = 2
"""Candidates, the best first, that are measured on the equalized copy as well, where none meets the target."""

RELEASED = 8
"""Protected groups, the least needed first, that are tried in int8 again once the goal is met."""


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
            return min(meeting, key=lambda trial: (self.space.cost(trial.assignment), drop_of_trial(trial)))
        if meeting:
            return min(meeting, key=drop_of_trial)
        return min(self.tried, key=self._distance)

    def _distance(self, trial: Trial) -> tuple[float, float]:
        """How far from the goal: what is beyond the budget first, then the drop."""
        return self.space.over_budget(trial.assignment), drop_of_trial(trial)

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
        space = self.space
        options, passes = options_of(space, self._side)
        chosen = least_noise(options, budget_of(space))
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
        self._try([plan], passes=self._share(passes + 1))

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
            if drop_of_trial(trial) < drop_of_trial(best):
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
            if math.isinf(drop_of_trial(best)):
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
            before = min(map(drop_of_trial, self.tried), default=math.inf)
            drop = drop_of_trial(trial)
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
        "meets": None if math.isinf(drop_of_trial(trial)) else space.meets(trial),
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
    return decibels(signal, noise) if signal > 0.0 and noise > 0.0 else None
