"""Which recorded outputs each variant of a sweep will be answered with, foreseen from one surveyed pass."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from sensitivity.sweep.replay.identity import Key
from sensitivity.sweep.replay.reuse import CallOrder, Output, Perturbed, ReuseRule, StandIn
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
            {call.number for call in calls if modules and call.can_stand_in and call.module not in barred},
        )
        for call in calls:
            if call.number in self.order.skippable and call.key is not None and self._note(call.key):
                self.calls.setdefault((call.module, call.key), call)
            for step in call.steps:
                if isinstance(step, Operation) and step.key is not None:
                    self._note(step.key)
                    self.operations.setdefault(step.key, step)
        self.place_in_body = {
            step.number: place
            for call in calls
            for place, step in enumerate(call.steps)
            if isinstance(step, SurveyedCall)
        }
        self.readers: dict[Value, list[Output]] = defaultdict(list)
        self.ready_from_the_start: list[Output] = []
        for step in (step for call in calls for step in call.steps if self._may_be_answered(step)):
            values = self.values_of(step.output)
            for value in dict.fromkeys(values):
                self.readers[value].append(step.output)
            if self.survey.from_outside.issuperset(values):
                self.ready_from_the_start.append(step.output)

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
            self._unlimited = self._reuses(together, watched)
            self._watched = watched
        reuses = {variant: self._unlimited[variant] for variant in distinct}
        if limit is not None:
            affordable = self._within(
                limit, Counter(output for variant in variants for output in reuses[variant].outputs)
            )
            if affordable is not None:
                reuses = self._reuses(distinct, self._watched, affordable)
        return ReusePlan(reuses, self._watched)

    def _reuses(
        self, variants: Iterable[Perturbed], watched: Set[int], affordable: Set[Output] | None = None
    ) -> dict[Perturbed, PlannedReuse]:
        """What variants are answered with, if everything is kept, or no more than ``affordable``."""
        timeline = _Timeline(self.survey.calls, watched)
        reuses = {}
        for variant in variants:
            walk = _Walk(self, timeline, variant, watched, affordable)
            walk.go()
            reuses[variant] = PlannedReuse(frozenset(walk.used), walk.seconds)
        return reuses

    def values_of(self, output: Output) -> list[Value]:
        """The tensors in the key of a step that has one."""
        key = self.step(output).key
        return [] if key is None else self.values[key]

    def _may_be_answered(self, step: SurveyedCall | Operation) -> bool:
        """Whether a record may have an output for the arguments of a step."""
        if step.key is None:
            return False
        return isinstance(step, Operation) or (step.module, step.key) in self.calls

    def clean_before(self, variant: Perturbed) -> set[Value]:
        """The values that are there before the pass and that a variant does not change."""
        numbers = self.survey.parameters
        changed = {numbers.get(parameter) for module in variant for parameter in self._parameters.get(module, ())}
        return {value for value in self.survey.from_outside if value[0] not in changed}

    def from_outside(self, output: Output) -> list[bool]:
        """For each tensor in the arguments of a call whether it was there before the pass."""
        key = self.step(output).key
        return [] if key is None else [value in self.survey.from_outside for value in _values_of(key)]

    def _note(self, key: Key) -> bool:
        """Remember the tensors in a key; whether there are any."""
        self.values[key] = _values_of(key)
        return bool(self.values[key])

    def _worth_watching(self, variants: Sequence[Perturbed], classes: Mapping[int, Hashable]) -> frozenset[int]:
        """Bodies where looking torch functions up saves more time than it costs."""
        everywhere = self._reuses(variants, classes.keys())
        answered = {
            self.survey.calls[output[0]].module
            for variant in variants
            for output in everywhere[variant].outputs
            if isinstance(output, tuple)
        }
        bodies: dict[Hashable, set[int]] = defaultdict(set)
        for body in answered:
            bodies[classes[body]].add(body)

        def seconds(watched: Set[int]) -> float:
            return sum(reuse.seconds for reuse in self._reuses(variants, watched).values())

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
            step = self.step(output)
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

    def step(self, output: Output) -> SurveyedCall | Operation:
        """The step of the pass that gave an output."""
        if isinstance(output, int):
            return self.survey.calls[output]
        return self.survey.calls[output[0]].steps[output[1]]


class _Timeline:
    """The steps of a surveyed pass in their order, for what lies between two of them.

    Args:
        calls: Every module call, the pass itself first.
        watched: Bodies whose torch functions are looked up.
    """

    def __init__(self, calls: Sequence[SurveyedCall], watched: Set[int]) -> None:
        self.entered: dict[Output, int] = {}
        self.left: dict[Output, int] = {}
        self._seconds = [0.0]  # until a place, that is before it
        self._lookups = [0]
        self._add(calls[0], watched)

    def between(self, start: int, end: int) -> float:
        """Seconds that the steps from one place until another take, with the look-ups of their functions."""
        lookups = self._lookups[end] - self._lookups[start]
        return self._seconds[end] - self._seconds[start] + OPERATOR_SECONDS * lookups

    @property
    def end(self) -> int:
        """The place behind the last step."""
        return len(self._seconds) - 1

    def _add(self, call: SurveyedCall, watched: Set[int]) -> None:
        looked_up = call.module in watched
        self._step(call.output, max(0.0, call.seconds - sum(step.seconds for step in call.steps)), lookups=0)
        for step in call.steps:
            if isinstance(step, SurveyedCall):
                self._add(step, watched)
            else:
                self._step(step.output, step.seconds, lookups=int(looked_up))
                self.left[step.output] = self.end
        self.left[call.output] = self.end

    def _step(self, output: Output, seconds: float, *, lookups: int) -> None:
        self.entered[output] = self.end
        self._seconds.append(self._seconds[-1] + seconds)
        self._lookups.append(self._lookups[-1] + lookups)


class _Walk:
    """Goes through the surveyed pass as it will be replayed for one variant.

    What runs before the first perturbed call is walked through, from one answered call to the next. Behind it only
    those steps are looked at whose arguments are all as they were, which are few: the others run in any case.
    """

    def __init__(
        self,
        foresight: Foresight,
        timeline: _Timeline,
        variant: Perturbed,
        watched: Set[int],
        affordable: Set[Output] | None,
    ) -> None:
        self._foresight = foresight
        self._timeline = timeline
        is_kept = (lambda _: True) if affordable is None else affordable.__contains__
        self._rule = ReuseRule(foresight.order, variant, foresight.around(variant), is_kept)
        self._watched = watched
        self._clean = foresight.clean_before(variant)
        self._made_clean: list[Value] = []  # by what was answered
        self._ready: list[tuple[int, Output]] = []  # a heap of steps behind the first perturbed call, by their places
        self.used: set[Output] = set()
        self.seconds = timeline.between(0, timeline.end)

    def go(self) -> None:
        """Go through all of it."""
        calls, entered = self._foresight.survey.calls, self._timeline.entered
        if not self._before_the_first(calls[0]):
            return
        position = entered[calls[self._rule.first].output]
        self._add_ready(self._foresight.ready_from_the_start, position)
        self._add_readers(self._made_clean, position)
        while self._ready:
            place, output = heapq.heappop(self._ready)
            if place < position:
                continue  # inside a call that was answered, or met before
            position = place + 1
            step = self._foresight.step(output)
            self._made_clean.clear()
            if isinstance(step, Operation):
                self._operation(step)
            elif self._call(step) is not None:
                position = self._timeline.left[output]
            self._add_readers(self._made_clean, position)

    def _before_the_first(self, call: SurveyedCall) -> bool:
        """Walk through a body as far as the first perturbed call; whether that was met."""
        watched, place = call.module in self._watched, 0
        while place < len(call.steps):
            step = call.steps[place]
            place += 1
            if isinstance(step, Operation):
                if watched:
                    self._operation(step)
                continue
            if step.number >= self._rule.first:
                return True
            answer = self._call(step)
            if answer is StandIn.ITS_INPUT:
                place = self._skip_to_the_end_of_chain(step)
            elif answer is None and self._before_the_first(step):
                return True
        return False

    def _skip_to_the_end_of_chain(self, call: SurveyedCall) -> int:
        """Pass over the calls of a chain whose outputs nobody looks at; the place of the last one in its body."""
        end = self._foresight.order.end_of_chain(call.number, self._rule.first)
        self.seconds -= self._timeline.between(self._timeline.entered[call.number], self._timeline.entered[end])
        return self._foresight.place_in_body[end]

    def _operation(self, step: Operation) -> None:
        recorded = None if step.key is None else self._foresight.operations[step.key]
        if self._rule.for_function(lambda: self._same_arguments(recorded)) is None or recorded is None:
            return
        self.used.add(recorded.place)
        self.seconds -= step.seconds
        self._add_clean(recorded.outputs)

    def _call(self, call: SurveyedCall) -> Output | StandIn | None:
        recorded = None if call.key is None else self._foresight.calls.get((call.module, call.key))
        output = self._rule.for_call(call.number, call.module, lambda: self._same_arguments(recorded))
        if isinstance(output, int):
            self.used.add(output)
            self.seconds -= self._timeline.between(
                self._timeline.entered[call.output], self._timeline.left[call.output]
            )
            answer = self._foresight.survey.calls[output]
            if not answer.clone:
                self._add_clean(answer.outputs)
        return output

    def _add_clean(self, values: Iterable[Value]) -> None:
        self._clean.update(values)
        self._made_clean += values

    def _add_readers(self, values: Iterable[Value], position: int) -> None:
        for value in values:
            self._add_ready(self._foresight.readers.get(value, ()), position)

    def _add_ready(self, outputs: Iterable[Output], position: int) -> None:
        """Put off the steps from a place on that may be answered by their arguments."""
        for output in outputs:
            place = self._timeline.entered[output]
            looked_up = isinstance(output, int) or self._foresight.survey.calls[output[0]].module in self._watched
            if place >= position and looked_up and self._clean.issuperset(self._foresight.values_of(output)):
                heapq.heappush(self._ready, (place, output))

    def _same_arguments(self, recorded: SurveyedCall | Operation | None) -> Output | None:
        """The output of a step with the key of this one, where all of the arguments are what they were."""
        if recorded is None or recorded.key is None:
            return None
        return recorded.output if self._clean.issuperset(self._foresight.values[recorded.key]) else None


def _values_of(key: Key) -> list[Value]:
    return [part for part in key if type(part) is tuple]
