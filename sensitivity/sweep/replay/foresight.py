"""Which recorded outputs each variant of a sweep will be answered with, foreseen from one surveyed pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from sensitivity.sweep.replay.identity import Key
from sensitivity.sweep.replay.survey import Call, Operation, Place, Survey, Value

OPERATOR_SECONDS = 5e-6
"""What it costs to look one torch function up, on a core of 2020s; benchmarks/replay.py --parts measures it."""

COMPARED_VARIANTS = 16  # on which bodies worth watching are chosen; spread over the model
COMPARED_CLASSES = 12

Output = int | Place
"""An output that the record may keep: of a module call by its number, of an operator by its place."""

Disturbed = frozenset[int]
"""``id`` of the modules that a variant disturbs."""


@dataclass(frozen=True)
class Uses:
    """What the record does for one variant.

    Attributes:
        outputs: What it is answered with.
        seconds: Time that the replayed pass should take, by the surveyed times.
    """

    outputs: frozenset[Output]
    seconds: float


@dataclass
class Plan:
    """What to record for some variants.

    Attributes:
        uses: What each variant is answered with.
        watched: Bodies whose torch functions are looked up.
    """

    uses: dict[Disturbed, Uses] = field(default_factory=dict)
    watched: frozenset[int] = frozenset()

    @property
    def wanted(self) -> frozenset[Output]:
        """All outputs worth keeping."""
        return frozenset().union(*(uses.outputs for uses in self.uses.values()))


class Foresight:
    """Foresees replayed passes of a surveyed one.

    Args:
        survey: The pass.
        around: Gives the ``id`` of modules and of all that contain them.
        barred: ``id`` of modules that must run each time.
        modules: Whether the record answers module calls; otherwise it answers torch functions alone.
    """

    def __init__(
        self, survey: Survey, around: Callable[[Iterable[int]], set[int]], barred: Set[int], *, modules: bool
    ) -> None:
        self.survey = survey
        self.around = around
        self.calls: dict[tuple[int, Key], Call] = {}
        self.operations: dict[Key, Operation] = {}
        self.values: dict[Key, list[Value]] = {}
        self._free: dict[Disturbed, Uses] = {}  # with everything kept
        self._watched: frozenset[int] = frozenset()
        self.answering = {
            call.number for call in survey.calls if modules and call.answers and call.module not in barred
        }
        for call in survey.calls:
            if call.number in self.answering and call.key is not None and self._note(call.key):
                self.calls.setdefault((call.module, call.key), call)
            for step in call.steps:
                if isinstance(step, Operation) and step.key is not None:
                    self._note(step.key)
                    self.operations.setdefault(step.key, step)

    def plan(self, variants: Sequence[Disturbed], classes: Mapping[int, Hashable], limit: int | None) -> Plan:
        """What to record.

        Args:
            variants: The variants, in the order in which they will run.
            classes: Bodies that may be watched, each with its class: bodies of a class are watched or not alike.
            limit: Most bytes to keep; what does not fit is computed again.
        """
        distinct = list(dict.fromkeys(variants))
        if not self._free.keys() >= set(distinct):
            watched = self._worth_watching(distinct[:: max(1, len(distinct) // COMPARED_VARIANTS)], classes)
            self._free = {variant: self.uses(variant, watched) for variant in {**self._free, **dict.fromkeys(distinct)}}
            self._watched = watched
        uses = {variant: self._free[variant] for variant in distinct}
        if limit is not None:
            kept = self._within(limit, Counter(output for variant in variants for output in uses[variant].outputs))
            if kept is not None:
                uses = {variant: self.uses(variant, self._watched, kept) for variant in distinct}
        return Plan(uses, self._watched)

    def uses(self, variant: Disturbed, watched: Set[int], kept: Set[Output] | None = None) -> Uses:
        """What one variant is answered with, if everything (or what is in ``kept``) is kept."""
        walk = _Walk(self, variant, watched, kept)
        walk.body(self.survey.calls[0])
        return Uses(frozenset(walk.used), walk.seconds)

    def given(self, output: Output) -> list[bool]:
        """For each tensor in the arguments of a call whether it was there before the pass."""
        key = self._step(output).key
        return [] if key is None else [value in self.survey.given for value in _values_of(key)]

    def _note(self, key: Key) -> bool:
        """Remember the tensors in a key; whether there are any."""
        self.values[key] = _values_of(key)
        return bool(self.values[key])

    def _worth_watching(self, variants: Sequence[Disturbed], classes: Mapping[int, Hashable]) -> frozenset[int]:
        """Bodies where looking torch functions up saves more time than it costs."""
        answered = {
            self.survey.calls[output[0]].module
            for variant in variants
            for output in self.uses(variant, classes.keys()).outputs
            if isinstance(output, tuple)
        }
        bodies: dict[Hashable, set[int]] = defaultdict(set)
        for body in answered:
            bodies[classes[body]].add(body)

        def seconds(watched: Set[int]) -> float:
            """What the variants should take, with these bodies watched."""
            return sum(self.uses(variant, watched).seconds for variant in variants)

        best, least = frozenset(answered), seconds(answered)
        for alike in list(bodies.values())[:COMPARED_CLASSES]:
            without = seconds(best - alike)
            if without <= least:
                best, least = best - alike, without
        return best if least < seconds(frozenset()) else frozenset()

    def _within(self, limit: int, uses: Counter[Output]) -> set[Output] | None:
        """Outputs that fit, those that save the most time by the byte first; None if all do."""
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

    def _step(self, output: Output) -> Call | Operation:
        if isinstance(output, int):
            return self.survey.calls[output]
        return self.survey.calls[output[0]].steps[output[1]]


class _Walk:
    """Goes through a surveyed pass as a replay would."""

    def __init__(self, foresight: Foresight, variant: Disturbed, watched: Set[int], kept: Set[Output] | None) -> None:
        self.of = foresight
        self.blocked = foresight.around(variant)
        self.first = first_call([call.module for call in foresight.survey.calls], variant)
        self.watched = watched
        self.kept = kept
        self.clean = set(foresight.survey.given)
        self.used: set[Output] = set()
        self.seconds = 0.0

    def body(self, call: Call) -> None:
        """Walk through what a call does."""
        self.seconds += max(0.0, call.seconds - sum(step.seconds for step in call.steps))
        watched = call.module in self.watched
        for step in call.steps:
            if isinstance(step, Call):
                self._call(step)
            else:
                self._operation(step, watched)

    def _operation(self, step: Operation, watched: bool) -> None:
        if watched:
            self.seconds += OPERATOR_SECONDS
            found = None if step.key is None else self.of.operations[step.key]
            if found is not None and step.key is not None and self._known(found.place) and self._clean(step.key):
                self.used.add(found.place)
                self.clean.update(found.outputs)
                return
        self.seconds += step.seconds

    def _call(self, call: Call) -> None:
        if call.number < self.first:
            if not self._before(call):
                return self.body(call)
            end = end_of_chain(call.number, self.of.survey.chained, lambda n: self._before(self.of.survey.calls[n]))
            if end != call.number and self._known(end):
                return None
            if self._known(call.number):
                return self._answered(call)
        elif call.module not in self.blocked and call.key is not None:
            found = self.of.calls.get((call.module, call.key))
            if found is not None and self._known(found.number) and self._clean(call.key):
                return self._answered(found)
        return self.body(call)

    def _before(self, call: Call) -> bool:
        """Whether a call may be answered because it ends before anything disturbed begins."""
        return call.last <= self.first and call.number in self.of.answering

    def _answered(self, call: Call) -> None:
        self.used.add(call.number)
        if not call.clone:
            self.clean.update(call.outputs)

    def _known(self, output: Output) -> bool:
        return self.kept is None or output in self.kept

    def _clean(self, key: Key) -> bool:
        return all(value in self.clean for value in self.of.values[key])


def first_call(modules: Sequence[int], disturbed: Set[int]) -> int:
    """Number of the first call of a disturbed module; that after the last call if there is none."""
    return next((number for number, module in enumerate(modules) if module in disturbed), len(modules))


def end_of_chain(number: int, chained: Mapping[int, int], skipped: Callable[[int], bool]) -> int:
    """The last call, from one on along its chain, that is skipped: only its output is ever looked at."""
    while number in chained and skipped(chained[number]):
        number = chained[number]
    return number


def _values_of(key: Key) -> list[Value]:
    return [part for part in key if type(part) is tuple]
