"""One pass recorded: the outputs worth keeping, under what they are looked up by."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from sensitivity.interception import Original
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.sweep.replay.foresight import ReusePlan
from sensitivity.sweep.replay.identity import (
    UNKNOWN,
    Key,
    cloned,
    contents,
    handed_out,
    identity,
    key_of,
    rebuilt,
    share_memory,
    storages_of,
    version_of,
    written,
)
from sensitivity.sweep.replay.reuse import CallOrder, Output
from sensitivity.sweep.replay.watching import OUTSIDE, Watching, context, is_property


@dataclass(slots=True)
class RecordedOutput:
    """An output of a call.

    Attributes:
        output: What is handed out.
        tensors: Its tensors with the versions that they must still have.
        clone: Whether a copy is handed out each time, because the pass writes to it.
        key: What it is looked up by; None if by its position in the pass alone.
        storages: Address and bytes of its memory.
    """

    output: Any
    tensors: list[tuple[Tensor, int]]
    clone: bool
    key: Hashable | None
    storages: dict[int, int]

    def hand_out(self) -> Any:
        """The output, for a caller that may change the lists, dicts and objects in it."""
        return cloned(self.output) if self.clone else handed_out(self.output)


class Record:
    """One pass over one batch, ready to be looked up.

    Args:
        order: The module calls of the pass.
        kept: The outputs that were kept.
        lasting: ``id`` of tensors that outlive the record: parts of keys whose identity stays theirs.
        outside: Those among them that were there before the pass; they are held, so that they do.
        uses: How many variants to come will be answered with each output.
    """

    def __init__(
        self,
        order: CallOrder,
        results: Mapping[Output, RecordedOutput],
        *,
        lasting: Iterable[int] = (),
        outside: Sequence[Tensor] = (),
        uses: Mapping[Output, int] = MappingProxyType({}),
    ) -> None:
        self.order = order
        self.kept = {output: result for output, result in results.items() if _may_stand_in(output, result, order)}
        self.outside = outside
        self.storages = {place for result in self.kept.values() for place in result.storages}
        tensors = [tensor for result in self.kept.values() if not result.clone for tensor, _ in result.tensors]
        self._holders = Counter([*map(id, tensors), *lasting])
        self.lookup: dict[Hashable, Output] = {}
        for output, result in self.kept.items():
            if result.key is not None and all(number in self._holders for number in tensors_of(result.key)):
                self.lookup.setdefault(result.key, output)
        self.keyed: set[Hashable] = {key[0] for key in self.lookup}  # type: ignore[index]
        self._keys: dict[int, list[Hashable]] = defaultdict(list)  # in which a tensor is
        for key in self.lookup:
            for number in tensors_of(key):
                self._keys[number].append(key)
        self._left = Counter(uses)
        self._versions: list[tuple[Tensor, int]] | None = None  # of all that is kept, as long as that stays the same

    def done(self, outputs: Iterable[Output]) -> None:
        """A variant has run: drop what only it was answered with."""
        for output in outputs:
            self._left[output] -= 1
            if self._left[output] <= 0 and output in self.kept:
                self._versions = None
                result = self.kept.pop(output)
                if result.key is not None and self.lookup.get(result.key) == output:
                    del self.lookup[result.key]
                for tensor, _ in result.tensors if not result.clone else ():
                    self._let_go(id(tensor))

    def _let_go(self, tensor: int) -> None:
        """Forget keys with a tensor that is kept no more: a new one may get its identity."""
        self._holders[tensor] -= 1
        if self._holders[tensor] == 0:
            for key in self._keys.pop(tensor, ()):
                self.lookup.pop(key, None)

    def intact(self) -> bool:
        """Whether nothing kept was written to."""
        if self._versions is None:
            self._versions = [pair for result in self.kept.values() for pair in result.tensors]
        return not written(self._versions)

    @property
    def kept_bytes(self) -> int:
        """Bytes of memory that is kept; what several outputs share counts once."""
        storages: dict[int, int] = {}
        for result in self.kept.values():
            storages |= result.storages
        return sum(storages.values())


class Recorder(Watching):
    """Runs a pass and keeps what a plan wants.

    Args:
        model: The model.
        known: ``id`` of its modules.
        plan: What to keep.
        overwritten: Calls whose output is written to later.
        from_outside: For each output which of the tensors in its arguments were there before the pass.
        limit: Most bytes to keep.
        barred: Outputs not to keep.
        summed: Take a checksum of what is kept, for ``changed``.
    """

    def __init__(
        self,
        model: nn.Module,
        known: Set[int],
        plan: ReusePlan,
        *,
        overwritten: Set[int],
        from_outside: Callable[[Output], list[bool]],
        limit: int | None,
        barred: Set[Output] = frozenset(),
        summed: bool = False,
    ) -> None:
        super().__init__(known, plan.watched)
        self.wanted = plan.wanted - barred
        self.summed = summed
        self.overwritten = overwritten
        self.from_outside = from_outside
        self.limit = limit
        self.modules, self.last = [OUTSIDE], [0]  # of every call, as in CallOrder
        self.kept: dict[Output, RecordedOutput] = {}
        self._body, self._steps = 0, 0  # number of the call whose body runs, and how many steps it took
        self._outside: dict[int, Tensor] = {}
        self._constants = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
        self._held = set(self._constants)  # what outlives the record
        self._storages: dict[int, int] = {}
        self._sums: dict[Output, list[int]] = {}
        self._bytes = 0

    def changed(self) -> set[Output]:
        """Outputs that hold something else now than when they were returned, though no version says so."""
        return {
            output
            for output, sums in self._sums.items()
            if not written(self.kept[output].tensors)
            and sums != contents([tensor for tensor, _ in self.kept[output].tensors])
        }

    def record(self, chained: Mapping[int, int], skippable: Set[int], uses: Mapping[Output, int]) -> Record:
        """What was recorded.

        Args:
            chained: As in ``CallOrder``.
            skippable: The same.
            uses: How many variants to come will be answered with each output.
        """
        order = CallOrder(self.modules, self.last, chained, skippable)
        lasting = [*self._outside, *self._constants]
        return Record(order, self.kept, lasting=lasting, outside=list(self._outside.values()), uses=uses)

    def call(self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module and keep what it returns, if wanted."""
        if id(module) not in self.known:
            return self.run(original, module, args, kwargs)
        number = len(self.modules)
        self.modules.append(id(module))
        self.last.append(0)
        body, steps = self._body, self._steps + 1
        self._body, self._steps = number, 0
        key, inputs, before = None, [], []
        if number in self.wanted:
            inputs = list(tensors_in((args, kwargs)))
            before = [version_of(tensor) for tensor in inputs]
            key = self._key(number, id(module), args, kwargs)
        if body == 0:
            for tensor in tensors_in((args, kwargs)):
                self._hold(tensor)
        try:
            result = self.run(original, module, args, kwargs)
        finally:
            self._body, self._steps = body, steps
        self.last[number] = len(self.modules)
        if number in self.wanted and UNKNOWN not in before and before == [version_of(tensor) for tensor in inputs]:
            self._keep(number, key, result, inputs)
        return result if body else leaving(result, self._storages.keys())

    def operate(self, function: Original, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function and keep what it returns, if wanted."""
        if is_property(function):
            return function(*args, **kwargs)
        place = (self._body, self._steps)
        self._steps += 1
        if place not in self.wanted:
            return function(*args, **kwargs)
        key = self._key(place, function, args, kwargs)
        result = function(*args, **kwargs)
        if key is not None:
            self._keep(place, key, result, [])
        return result

    def _key(self, output: Output, start: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        """Key of a call; None if a tensor in it may die before the record does, and another get its identity."""
        key = key_of((context(), args, kwargs), identity)
        if key is None:
            return None
        for tensor, outside in zip(tensors_in((args, kwargs)), self.from_outside(output), strict=False):
            if outside:
                self._hold(tensor)
        return (start, *key) if self._held.issuperset(tensors_of(key)) else None

    def _hold(self, tensor: Tensor) -> None:
        self._outside[id(tensor)] = tensor
        self._held.add(id(tensor))

    def _keep(self, output: Output, key: Key | None, result: Any, inputs: list[Tensor]) -> None:
        """Keep a result, if it can be kept and fits."""
        tensors = list(tensors_in(result))
        clone = isinstance(output, int) and output in self.overwritten
        if any(version_of(tensor) == UNKNOWN for tensor in tensors):
            return
        if clone and share_memory(tensors, inputs):
            return  # handing out a copy would cut the tie between an output and what shares its memory
        storages = storages_of(result)
        fresh = sum(size for place, size in storages.items() if place not in self._storages)
        if self.limit is not None and self._bytes + fresh > self.limit:
            return
        try:
            stored = cloned(result) if clone else handed_out(result)
        except (TypeError, ValueError, AttributeError):
            return  # an object that cannot be copied is made anew each time
        if clone:
            storages = storages_of(stored)
        self._storages |= storages
        self._bytes += fresh
        versions = [(tensor, version_of(tensor)) for tensor in tensors_in(stored)]
        self._held.update(id(tensor) for tensor, _ in versions)
        self.kept[output] = RecordedOutput(stored, versions, clone, key, storages)
        if self.summed:
            self._sums[output] = contents([tensor for tensor, _ in versions])


def _may_stand_in(output: Output, result: RecordedOutput, order: CallOrder) -> bool:
    """Whether a kept output is still what was returned, and is of something that need not run each time."""
    must_run = isinstance(output, int) and output not in order.skippable
    return not must_run and (result.clone or not written(result.tensors))


def leaving(result: Any, storages: Set[int]) -> Any:
    """What the model returns to its caller, with copies of what lies in kept memory.

    A caller may write to it through numpy, which no version counts.
    """

    def is_kept(tensor: Tensor) -> bool:
        return version_of(tensor) != UNKNOWN and tensor.untyped_storage().data_ptr() in storages

    if not any(map(is_kept, tensors_in(result))):
        return result
    return rebuilt(result, lambda tensor: tensor.clone() if is_kept(tensor) else tensor)


def tensors_of(key: Any) -> list[int]:
    """``id`` of the tensors in a key."""
    return [part[0] for part in key if type(part) is tuple]
