"""Which recorded outputs each variant of a sweep will be answered with, foreseen from one surveyed pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from sensitivity.sweep.replay.identity import Key
from sensitivity.sweep.replay.reuse import CallOrder, Output, Perturbed, ReuseRule
from sensitivity.sweep.replay.survey import Operation, Survey, SurveyedCall, Value

OPERATOR_SECONDS = 5e-6
"""What it costs to look one torch function up, on a core of 2020s; benchmarks/replay.py --parts measures it."""

COMPARED_VARIANTS = 16  # on which bodies worth watching are chosen; spread over the model
COMPARED_CLASSES = 12


@dataclass(frozen=True)
class PlannedReuse:
    """What the record will do for one variant.

    Attributes:
        outputs: What it is answered with.
        seconds: Time that the replayed pass should take, by the surveyed times.
    """

    outputs: frozenset[Output]
    seconds: float


@dataclass(frozen=True)
class ReusePlan:
    """What to record for some variants.

    Attributes:
        reuses: What the record will do for each variant, by the modules that it perturbs.
        watched: Bodies whose torch functions are looked up.
    """

    reuses: Mapping[Perturbed, PlannedReuse] = field(default_factory=dict)
    watched: frozenset[int] = frozenset()

    @property
    def wanted(self) -> frozenset[Output]:
        """All outputs worth keeping."""
        return frozenset().union(*(reuse.outputs for reuse in self.reuses.values()))


class Foresight:
    """Foresees replayed passes of a surveyed one.

    Args:
        survey: The pass.
        around: Gives the ``id`` of modules and of all that contain them.
        barred: ``id`` of modules that must run each time.
        parameters: For the ``id`` of each module those of its own parameters, which are others where it is perturbed.
        modules: Whether the record answers module calls; otherwise it answers torch functions alone.
    """

    def __init__(
        self,
        survey: Survey,
        around: Callable[[Iterable[int]], set[int]],
        barred: Set[int],
        parameters: Mapping[int, Sequence[int]],
        *,
        modules: bool,
    ) -> None:
        self.survey = survey
        self.around = around
        self.calls: dict[tuple[int, Key], SurveyedCall] = {}
        self.operations: dict[Key, Operation] = {}
        self.values: dict[Key, list[Value]] = {}
        self._unlimited: dict[Perturbed, PlannedReuse] = {}  # with everything kept
        self._watched: frozenset[int] = frozenset()
        calls = survey.calls
        self._parameters = parameters
        self.order = CallOrder(
            [call.module for call in calls],
            [call.last for call in calls],
            survey.chained,
            {call.number for call in calls if modules and call.answers and call.module not in barred},
        )
        for call in calls:
            if call.number in self.order.skippable and call.key is not None and self._note(call.key):
                self.calls.setdefault((call.module, call.key), call)
            for step in call.steps:
                if isinstance(step, Operation) and step.key is not None:
                    self._note(step.key)
                    self.operations.setdefault(step.key, step)

    def plan(self, variants: Sequence[Perturbed], classes: Mapping[int, Hashable], limit: int | None) -> ReusePlan:
        """What to record.

        Args:
            variants: The variants, in the order in which they will run.
            classes: Bodies that may be watched, each with its class: bodies of a class are watched or not alike.
            limit: Most bytes to keep; what does not fit is computed again.
        """
        distinct = list(dict.fromkeys(variants))
        if not self._unlimited.keys() >= set(distinct):
            watched = self._worth_watching(distinct[:: max(1, len(distinct) // COMPARED_VARIANTS)], classes)
            together = {**self._unlimited, **dict.fromkeys(distinct)}
            self._unlimited = {variant: self.reuse_of(variant, watched) for variant in together}
            self._watched = watched
        reuses = {variant: self._unlimited[variant] for variant in distinct}
        if limit is not None:
            kept = self._within(limit, Counter(output for variant in variants for output in reuses[variant].outputs))
            if kept is not None:
                reuses = {variant: self.reuse_of(variant, self._watched, kept) for variant in distinct}
        return ReusePlan(reuses, self._watched)

    def reuse_of(self, variant: Perturbed, watched: Set[int], kept: Set[Output] | None = None) -> PlannedReuse:
        """What one variant is answered with, if everything (or what is in ``kept``) is kept."""
        walk = _Walk(self, variant, watched, kept)
        walk.body(self.survey.calls[0])
        return PlannedReuse(frozenset(walk.used), walk.seconds)

    def clean_before(self, variant: Perturbed) -> set[Value]:
        """The values that are there before the pass and that a variant does not change."""
        numbers = self.survey.parameters
        changed = {numbers.get(parameter) for module in variant for parameter in self._parameters.get(module, ())}
        return {value for value in self.survey.given if value[0] not in changed}

    def given(self, output: Output) -> list[bool]:
        """For each tensor in the arguments of a call whether it was there before the pass."""
        key = self._step(output).key
        return [] if key is None else [value in self.survey.given for value in _values_of(key)]

    def _note(self, key: Key) -> bool:
        """Remember the tensors in a key; whether there are any."""
        self.values[key] = _values_of(key)
        return bool(self.values[key])

    def _worth_watching(self, variants: Sequence[Perturbed], classes: Mapping[int, Hashable]) -> frozenset[int]:
        """Bodies where looking torch functions up saves more time than it costs."""
        answered = {
            self.survey.calls[output[0]].module
            for variant in variants
            for output in self.reuse_of(variant, classes.keys()).outputs
            if isinstance(output, tuple)
        }
        bodies: dict[Hashable, set[int]] = defaultdict(set)
        for body in answered:
            bodies[classes[body]].add(body)

        def seconds(watched: Set[int]) -> float:
            """What the variants should take, with these bodies watched."""
            return sum(self.reuse_of(variant, watched).seconds for variant in variants)

        best, least = frozenset(answered), seconds(answered)
        for alike in list(bodies.values())[:COMPARED_CLASSES]:
            without = seconds(best - alike)
            if without <= least:
                best, least = best - alike, without
        return best if least < seconds(frozenset()) else frozenset()

    def _within(self, limit: int, uses: Counter[Output]) -> set[Output] | None:
        """Outputs that fit, those that save the most time by the byte first; None if all do.

        Args:
            limit: Bytes.
            uses: How often each output would be used.
        """
        worth: dict[int, float] = defaultdict(float)
        size: dict[int, int] = defaultdict(int)
        lies: dict[Output, set[int]] = {}
        for output, count in uses.items():
            step = self._step(output)
            lies[output] = {self.survey.places[number][0] for number, _ in step.outputs}
            for number, _ in step.outputs:
                owner, bytes_ = self.survey.places[number]
                size[owner] = max(size[owner], bytes_)
                worth[owner] += count * step.seconds
        total, dropped = sum(size.values()), set()
        for owner in sorted(size, key=lambda owner: worth[owner] / max(1, size[owner])):
            if total <= limit:
                break
            dropped.add(owner)
            total -= size[owner]
        return {output for output in uses if not lies[output] & dropped} if dropped else None

    def _step(self, output: Output) -> SurveyedCall | Operation:
        if isinstance(output, int):
            return self.survey.calls[output]
        return self.survey.calls[output[0]].steps[output[1]]


class _Walk:
    """Walks through the surveyed pass as it will be replayed for one variant."""

    def __init__(self, foresight: Foresight, variant: Perturbed, watched: Set[int], kept: Set[Output] | None) -> None:
        self._foresight = foresight
        is_kept = (lambda _: True) if kept is None else kept.__contains__
        self._rule = ReuseRule(foresight.order, variant, foresight.around(variant), is_kept)
        self._watched = watched
        self._clean = foresight.clean_before(variant)
        self.used: set[Output] = set()
        self.seconds = 0.0

    def body(self, call: SurveyedCall) -> None:
        """Walk through what a call does."""
        self.seconds += max(0.0, call.seconds - sum(step.seconds for step in call.steps))
        watched = call.module in self._watched
        for step in call.steps:
            if isinstance(step, SurveyedCall):
                self._call(step)
            elif watched:
                self._operation(step)
            else:
                self.seconds += step.seconds

    def _operation(self, step: Operation) -> None:
        self.seconds += OPERATOR_SECONDS
        recorded = None if step.key is None else self._foresight.operations[step.key]
        if self._rule.for_function(lambda: self._same_arguments(recorded)) is None or recorded is None:
            self.seconds += step.seconds
            return
        self.used.add(recorded.place)
        self._clean.update(recorded.outputs)

    def _call(self, call: SurveyedCall) -> None:
        recorded = None if call.key is None else self._foresight.calls.get((call.module, call.key))
        output = self._rule.for_call(call.number, call.module, lambda: self._same_arguments(recorded))
        if output is None:
            self.body(call)
        elif isinstance(output, int):
            self.used.add(output)
            answer = self._foresight.survey.calls[output]
            if not answer.clone:
                self._clean.update(answer.outputs)

    def _same_arguments(self, recorded: SurveyedCall | Operation | None) -> Output | None:
        """The output of a step with the key of this one, where all of the arguments are what they were."""
        if recorded is None or recorded.key is None:
            return None
        clean = all(value in self._clean for value in self._foresight.values[recorded.key])
        return recorded.output if clean else None


def _values_of(key: Key) -> list[Value]:
    return [part for part in key if type(part) is tuple]
