"""One pass read for its flow: which call makes which value from which, how long it takes, what must not be skipped."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from sensitivity.interception import Original, parameters_read
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.sweep.replay.identity import UNKNOWN, Key, key_of, share_memory, state_of, version_of, witness, written
from sensitivity.sweep.replay.reuse import Output, Place
from sensitivity.sweep.replay.watching import OUTSIDE, Watching, context, is_property

Value = tuple[int, int]
"""A tensor of the pass, numbered in order of appearance, at one of its versions."""


@dataclass(slots=True, eq=False)
class Operation:
    """One torch function called in a watched body.

    Attributes:
        place: Where in the pass.
        key: Function and arguments; None where the record can never answer for it.
        outputs: The values that it returned.
        seconds: How long it took.
    """

    place: Place
    key: Key | None
    outputs: list[Value]
    seconds: float

    @property
    def output(self) -> Output:
        """What its output is called in a record."""
        return self.place


@dataclass(slots=True, eq=False)
class SurveyedCall:
    """One module call.

    Attributes:
        number: Place in the order of entry; 0 is the pass as a whole.
        module: ``id`` of the module; ``OUTSIDE`` for the pass as a whole.
        last: Number after its last nested call.
        key: What it was given; None where that cannot be compared.
        outputs: The values that it returned.
        steps: What its body called, in order.
        seconds: How long it took, with all that it called.
        can_stand_in: Whether the record may answer for it.
        clone: Whether its output is written to later, so that a copy must be handed out each time.
    """

    number: int
    module: int
    last: int = 0
    key: Key | None = None
    outputs: list[Value] = field(default_factory=list)
    steps: list[SurveyedCall | Operation] = field(default_factory=list)
    seconds: float = 0.0
    can_stand_in: bool = True
    clone: bool = False

    @property
    def output(self) -> Output:
        """What its output is called in a record."""
        return self.number


@dataclass
class Survey:
    """What is known of a pass.

    Attributes:
        calls: Every module call in order of entry, the pass itself first.
        from_outside: Values that were there before the pass, as far as its watched bodies show.
        places: For each tensor the number of the one whose memory it lies in, often its own, and the bytes of it.
        stateful: ``id`` of modules that changed themselves, were changed between their calls, or carried hooks.
        watched: Bodies whose torch functions were seen.
        chained: Calls whose output goes to another call and nowhere else, with the number of that one: what a
            ``Sequential`` runs.
        callers: For each module that was called those that were running then: they need not have registered it.
        readers: For each module those that looked up one of its parameters in their own bodies.
        parameters: Numbers of the parameters among the tensors, by their ``id``.
    """

    calls: list[SurveyedCall]
    from_outside: set[Value]
    places: list[tuple[int, int]]
    stateful: set[int]
    watched: Set[int]
    chained: dict[int, int]
    callers: dict[int, set[int]]
    readers: dict[int, set[int]]
    parameters: dict[int, int]

    @property
    def sequence(self) -> list[int]:
        """Which modules were called, in order: another sequence is another pass."""
        return [call.module for call in self.calls[1:]]


def survey(run: Callable[[], Any], states: Mapping[int, list[Any]], watched: Set[int], chains: Set[int]) -> Survey:
    """Run a pass and read it; no tensor of it is kept.

    Args:
        run: The pass.
        states: For the ``id`` of each of the model's modules its state before; other modules are run and not noted.
        watched: ``id`` of modules whose bodies' torch functions are noted too.
        chains: ``id`` of modules that do nothing but hand the output of each of their modules to the next.
    """
    surveyor = _Surveyor(states, watched)
    started = time.perf_counter()
    with surveyor.watching():
        run()
    whole = surveyor.calls[0]
    whole.seconds, whole.last = time.perf_counter() - started, len(surveyor.calls)
    surveyor.find_overwritten()
    bodies = [call.steps for call in surveyor.calls if call.module in chains]
    calls = [[step for step in body if isinstance(step, SurveyedCall)] for body in bodies]
    chained = {before.number: behind.number for body in calls for before, behind in pairwise(body)}
    return Survey(
        surveyor.calls,
        surveyor.from_outside,
        surveyor.places,
        surveyor.stateful,
        watched,
        chained,
        _callers(surveyor.calls),
        dict(surveyor.readers),
        surveyor.parameters,
    )


def _callers(calls: Sequence[SurveyedCall]) -> dict[int, set[int]]:
    """For each module those whose calls were going on when it was called."""
    callers: defaultdict[int, set[int]] = defaultdict(set)
    running: list[SurveyedCall] = []
    for call in calls[1:]:
        while running and running[-1].last <= call.number:
            running.pop()
        callers[call.module].update(outer.module for outer in running)
        running.append(call)
    return dict(callers)


class _Surveyor(Watching):
    """Runs everything and writes it down."""

    def __init__(self, states: Mapping[int, list[Any]], watched: Set[int]) -> None:
        super().__init__(states.keys(), watched)
        self.states = dict(states)
        self.calls = [SurveyedCall(0, OUTSIDE, can_stand_in=False)]
        self.from_outside: set[Value] = set()
        self.places: list[tuple[int, int]] = []
        self.stateful: set[int] = set()
        self.readers: defaultdict[int, set[int]] = defaultdict(set)
        self.parameters: dict[int, int] = {}
        self._body = self.calls[0]
        self._numbers: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._witnesses: list[tuple[SurveyedCall | Operation, list[tuple[Tensor, int]]]] = []
        self._sharing: set[SurveyedCall] = set()  # calls for whose output no copy could stand in

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Passes inside are read."""
        with super().watching(), parameters_read(self._read):
            yield

    def _read(self, owner: nn.Module) -> None:
        """Note that the module whose body runs looked up a parameter of another one."""
        if self._body.module not in (OUTSIDE, id(owner)):
            self.readers[id(owner)].add(self._body.module)

    def call(self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module and note what it was given and returned."""
        if id(module) not in self.states:
            return self.run(original, module, args, kwargs)
        body, call = self._body, SurveyedCall(len(self.calls), id(module))
        self.calls.append(call)
        body.steps.append(call)
        inputs = list(tensors_in((args, kwargs)))
        before, state = [version_of(tensor) for tensor in inputs], state_of(module)
        if state != self.states[id(module)] or module._forward_hooks or module._forward_pre_hooks:
            self.stateful.add(id(module))  # somebody else told it something, or looks on
        call.key = key_of((context(), args, kwargs), self._seen)
        self._body = call
        started = time.perf_counter()
        try:
            result = self.run(original, module, args, kwargs)
        finally:
            self._body = body
        call.seconds = time.perf_counter() - started
        call.last = len(self.calls)
        self.states[id(module)] = state_of(module)
        if state != self.states[id(module)]:
            self.stateful.add(id(module))
        now = list(tensors_in((args, kwargs)))  # more of them where it put one into a list that it was given
        same = list(map(id, inputs)) == list(map(id, now)) and before == [version_of(tensor) for tensor in now]
        call.can_stand_in = UNKNOWN not in before and same
        outputs = list(tensors_in(result))
        self._note(call, outputs)
        if share_memory(outputs, inputs):
            self._sharing.add(call)
        return result

    def operate(self, function: Original, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function and note the same."""
        if is_property(function):
            result = function(*args, **kwargs)
            for tensor in tensors_in(result):
                self._number(tensor)
            return result
        body = self._body
        operation = Operation((body.number, len(body.steps)), None, [], 0.0)
        body.steps.append(operation)
        key = key_of((context(), args, kwargs), self._seen)
        operation.key = None if key is None else (function, *key)
        started = time.perf_counter()
        result = function(*args, **kwargs)
        operation.seconds = time.perf_counter() - started
        outputs = list(tensors_in(result)) if isinstance(result, (Tensor, tuple, list)) else []
        if not outputs or (isinstance(result, (tuple, list)) and len(outputs) < len(result)):
            operation.key = None
        self._note(operation, outputs)
        return result

    def find_overwritten(self) -> None:
        """See what was written to after it was returned."""
        for step, counters in self._witnesses:
            if not written(counters):
                continue
            if isinstance(step, Operation):
                step.key = None
            else:
                step.clone = True
                step.can_stand_in = step.can_stand_in and step not in self._sharing
        self._witnesses.clear()

    def _note(self, step: SurveyedCall | Operation, outputs: list[Tensor]) -> None:
        if any(version_of(tensor) == UNKNOWN for tensor in outputs):
            if isinstance(step, SurveyedCall):
                step.can_stand_in = False
            step.key = None
            return
        step.outputs = [(self._number(tensor), version_of(tensor)) for tensor in outputs]
        self._witnesses.append((step, [(witness(tensor), version_of(tensor)) for tensor in outputs]))

    def _seen(self, tensor: Tensor) -> Hashable | None:
        """The value of an argument; one that nothing seen has made was there before, if all of the body is seen."""
        if version_of(tensor) == UNKNOWN:
            return None
        known = self._numbers.get(id(tensor))
        value = (self._number(tensor), version_of(tensor))
        if (known is None or known[0]() is not tensor) and self._body.module in self.watched | {OUTSIDE}:
            self.from_outside.add(value)
        return value

    def _number(self, tensor: Tensor) -> int:
        known = self._numbers.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        number = len(self.places)
        base = None if tensor._base is None else self._numbers.get(id(tensor._base))
        owner = number if base is None or base[0]() is not tensor._base else self.places[base[1]][0]
        self.places.append((owner, tensor.untyped_storage().nbytes()))
        self._numbers[id(tensor)] = (weakref.ref(tensor), number)
        if isinstance(tensor, nn.Parameter):
            self.parameters[id(tensor)] = number
        return number
