"""When a recorded output may stand in for a call: one rule, for the plan of a perturbed pass and for the pass itself.

A module call of a perturbed pass is answered from the record of the unperturbed one where it must give the same again:

- it was over before the first perturbed module was called, so that nothing can have changed yet; or
- its module neither holds a perturbed one nor called one, and its arguments are those of a recorded call.

A torch function is answered by its arguments alone. What "the same arguments" are is told by the caller: while planning
they are numbered values of the surveyed pass, while replaying tensors with their versions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from sensitivity.sweep.replay.watching import OUTSIDE

Place = tuple[int, int]
"""An operator: number of the call in whose body it ran, and its number in that body."""

Output = int | Place
"""An output that a record may keep: of a module call by its number, of an operator by its place."""

Perturbed = frozenset[int]
"""``id`` of the modules that a variant perturbs."""


class StandIn(Enum):
    """What stands in for an output that is not recorded."""

    ITS_INPUT = "its input"
    """Nobody looks at the output but the next call of the chain, which is answered as well."""


@dataclass(frozen=True)
class CallOrder:
    """The module calls of one pass.

    Attributes:
        modules: ``id`` of the module of every call, in order of entry; the pass itself first.
        last: For each call the number after its last nested call.
        chained: Calls whose output goes to one other call alone, with the number of that one.
        skippable: Calls that need not run each time.
    """

    modules: Sequence[int] = (OUTSIDE,)
    last: Sequence[int] = (0,)
    chained: Mapping[int, int] = field(default_factory=dict)
    skippable: Set[int] = frozenset()

    def first_of(self, modules: Iterable[int]) -> int:
        """Number of the first call of one of these modules; that after the last call if there is none."""
        first_calls = self._first_calls
        return min((first_calls[module] for module in modules if module in first_calls), default=len(self.modules))

    def end_of_chain(self, number: int, before: int) -> int:
        """The last call along the chain of one, with none between that must run, that is over before another begins.

        Args:
            number: A skippable call that is over before the other one.
            before: Number of the other one.
        """
        links, position = self._chains.get(number, ((number,), 0))
        return links[bisect_right(links, before, lo=position, key=self.last.__getitem__) - 1]

    @cached_property
    def _first_calls(self) -> Mapping[int, int]:
        return {module: number for number, module in reversed(list(enumerate(self.modules)))}

    @cached_property
    def _chains(self) -> Mapping[int, tuple[Sequence[int], int]]:
        """For each skippable call of a chain the neighbours in it that are skippable as well, and its place there."""
        places: dict[int, tuple[Sequence[int], int]] = {}
        for start in sorted(self.chained):
            links: list[int] = []
            number: int | None = start
            while number is not None and number in self.skippable and number not in places:
                places[number] = links, len(links)
                links.append(number)
                number = self.chained.get(number)
        return places


class ReuseRule:
    """Says for one perturbed pass which recorded outputs stand in for which calls.

    Args:
        order: The calls of the recorded pass.
        perturbed: ``id`` of the modules whose output may differ from the record.
        blocked: They and all that contain or call one of them.
        is_kept: Whether the record keeps an output.
    """

    def __init__(
        self, order: CallOrder, perturbed: Perturbed, blocked: Set[int], is_kept: Callable[[Output], bool]
    ) -> None:
        self.first = order.first_of(perturbed)
        self._order = order
        self._blocked = blocked
        self._is_kept = is_kept

    def for_call(
        self, number: int, module: int, find_same_arguments: Callable[[], Output | None]
    ) -> Output | StandIn | None:
        """What stands in for a module call; None where it must run.

        Args:
            number: Of the call in the recorded pass, as far as nothing perturbed has begun; ``first`` from then on.
            module: ``id`` of its module.
            find_same_arguments: Finds the recorded call of this module with the arguments of this one.
        """
        if number < self.first:
            return self._before_the_first(number)
        return None if module in self._blocked else self.for_function(find_same_arguments)

    def for_function(self, find_same_arguments: Callable[[], Output | None]) -> Output | None:
        """What stands in for a torch function; None where it must run.

        Args:
            find_same_arguments: Finds the recorded call of this function with the arguments of this one.
        """
        output = find_same_arguments()
        return output if output is not None and self._is_kept(output) else None

    def _before_the_first(self, number: int) -> Output | StandIn | None:
        order = self._order
        if order.last[number] > self.first or number not in order.skippable:
            return None
        end = order.end_of_chain(number, self.first)
        if end != number and self._is_kept(end):
            return StandIn.ITS_INPUT
        return number if self._is_kept(number) else None
