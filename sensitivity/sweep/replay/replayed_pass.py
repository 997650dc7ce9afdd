"""A pass replayed: calls answered from the record of the same pass, unperturbed, where the rule of reuse allows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from typing import Any

from torch import nn

from sensitivity.interception import Original
from sensitivity.sweep.replay.identity import identity, key_of
from sensitivity.sweep.replay.record import Record, leaving
from sensitivity.sweep.replay.reuse import Output, Perturbed, ReuseRule, StandIn
from sensitivity.sweep.replay.watching import Watching, context


class ReplayedPass(Watching):
    """ReplayedPass calls from a record where the rule of reuse allows, and runs the others.

    Args:
        record: Of the same pass, unperturbed.
        known: ``id`` of the model's modules.
        perturbed: ``id`` of the modules whose output may differ from the record.
        blocked: They and all that contain or call one of them.
        watched: Bodies whose torch functions are looked up.
    """

    def __init__(
        self, record: Record, known: Set[int], perturbed: Perturbed, blocked: Set[int], watched: Set[int]
    ) -> None:
        super().__init__(known, watched)
        self.record = record
        self.reused = 0
        self.ran = 0
        self._rule = ReuseRule(record.order, perturbed, blocked, record.kept.__contains__)
        self._depth = 0
        self._next = 1  # number of the next call, as long as the pass is as recorded and nothing perturbed has begun

    def call(self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a module call or run it."""
        if id(module) not in self.known:
            return self.run(original, module, args, kwargs)
        self._depth += 1
        try:
            result = self._reuse_or_run(original, module, args, kwargs)
        finally:
            self._depth -= 1
        return result if self._depth else leaving(result, self.record.storages)

    def operate(self, function: Original, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a torch function or run it."""
        output = self._rule.for_function(lambda: self._same_arguments(function, args, kwargs))
        if output is None:
            return function(*args, **kwargs)
        self.reused += 1
        return self.record.kept[output].hand_out()

    def _reuse_or_run(
        self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        number = self._number(id(module))
        output = self._rule.for_call(number, id(module), lambda: self._same_arguments(id(module), args, kwargs))
        if output is None:
            self._next = number + 1
            self.ran += 1
            return self.run(original, module, args, kwargs)
        self._next = number if number >= self._rule.first else self.record.order.last[number]
        self.reused += 1
        return args[0] if isinstance(output, StandIn) else self.record.kept[output].hand_out()

    def _number(self, module: int) -> int:
        """The number of the next call in the recorded pass; from the first perturbed call on its number."""
        recorded = self._next < self._rule.first and self.record.order.modules[self._next] == module
        return self._next if recorded else self._rule.first

    def _same_arguments(self, start: Hashable, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Output | None:
        """The kept output of a call of the same module or function with the same arguments."""
        if start not in self.record.keyed:
            return None
        key = key_of((context(), args, kwargs), identity)
        return None if key is None else self.record.lookup.get((start, *key))
