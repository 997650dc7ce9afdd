"""A pass replayed: calls answered from the record of the same pass, undisturbed, where the rules allow."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from typing import Any

from torch import nn

from sensitivity.interception import Original
from sensitivity.sweep.replay.foresight import Disturbed, end_of_chain, first_call
from sensitivity.sweep.replay.identity import identity, key_of
from sensitivity.sweep.replay.record import Kept, Record, leaving
from sensitivity.sweep.replay.watching import Watching, context

PASSED_ON = Kept(None, [], False, None, {})
"""Answer to a call whose output nobody looks at: what it was given stands in for it."""


class Answers(Watching):
    """Answers calls from a record where the rules allow, and runs the others.

    Args:
        record: Of the same pass, undisturbed.
        known: ``id`` of the model's modules.
        disturbed: ``id`` of the modules whose output may differ from the record.
        blocked: They and all that contain one of them.
        watched: Bodies whose torch functions are looked up.
    """

    def __init__(
        self, record: Record, known: Set[int], disturbed: Disturbed, blocked: Set[int], watched: Set[int]
    ) -> None:
        super().__init__(known, watched)
        self.record = record
        self.blocked = blocked
        self.answered = 0
        self.ran = 0
        self._first = first_call(record.modules, disturbed)
        self._depth = 0
        self._position = 1  # number of the next call, as long as nothing disturbed has begun

    def call(self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a module call or run it."""
        if id(module) not in self.known:
            return self.run(original, module, args, kwargs)
        self._depth += 1
        try:
            result = self._answer_or_run(original, module, args, kwargs)
        finally:
            self._depth -= 1
        return result if self._depth else leaving(result, self.record.storages)

    def _answer_or_run(
        self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        kept = self._kept(id(module), args, kwargs)
        if kept is not None:
            self.answered += 1
            return args[0] if kept is PASSED_ON else kept.hand_out()
        self.ran += 1
        return self.run(original, module, args, kwargs)

    def operate(self, function: Original, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a torch function or run it."""
        if function in self.record.keyed:
            kept = self._found(function, args, kwargs)
            if kept is not None:
                self.answered += 1
                return kept.hand_out()
        return function(*args, **kwargs)

    def _kept(self, module: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Kept | None:
        """The recorded output of a module call, if there is one that must be the same."""
        record, here = self.record, self._position
        if here < self._first and record.modules[here] == module:
            if not self._before(here):
                self._position += 1
                return None
            end = end_of_chain(here, record.chained, self._before)
            if end != here and end in record.kept:
                self._position = record.last[here]
                return PASSED_ON
            if here in record.kept:
                self._position = record.last[here]
                return record.kept[here]
            self._position += 1
            return None
        self._position = self._first  # from here on by identity alone
        if module not in record.keyed or module in self.blocked:
            return None
        return self._found(module, args, kwargs)

    def _before(self, number: int) -> bool:
        """Whether a call ends before anything disturbed begins, and need not run."""
        return self.record.last[number] <= self._first and number in self.record.answering

    def _found(self, start: Hashable, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Kept | None:
        key = key_of((context(), args, kwargs), identity)
        output = None if key is None else self.record.lookup.get((start, *key))
        return None if output is None else self.record.kept[output]
