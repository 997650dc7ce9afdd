"""What many dicts bind, compared at once: every pass of a sweep asks whether a model's attributes are as they were."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

Dict = Mapping[str, Any]


class Bindings:
    """The keys and the objects of some dicts, as they are when this is made.

    All dicts are compared in one loop that runs in C; only where that finds a difference they are compared one by one.

    Args:
        bound: Dicts of which keys and objects count.
        named: Dicts of which the keys alone count.
    """

    def __init__(self, bound: Sequence[Dict], named: Sequence[Dict]) -> None:
        self._dicts = (*bound, *named)
        self._bound = tuple(bound)
        self._lengths = [*map(len, self._dicts)]
        self._keys = [*chain.from_iterable(self._dicts)]
        self._values = [*_values(self._bound)]

    def same(self) -> bool:
        """Whether all dicts bind the same keys, in the same order, to the same objects."""
        return (
            [*map(len, self._dicts)] == self._lengths
            and all(map(operator.is_, chain.from_iterable(self._dicts), self._keys))
            and all(map(operator.is_, _values(self._bound), self._values))
        )

    def different(self) -> list[int]:
        """Positions of the dicts that differ, ``named`` counted after ``bound``."""
        if self.same():
            return []
        positions, key, value = [], 0, 0
        for position, (now, length) in enumerate(zip(self._dicts, self._lengths, strict=True)):
            same = len(now) == length and all(map(operator.is_, now, self._keys[key : key + length]))
            if position < len(self._bound):
                same = same and all(map(operator.is_, now.values(), self._values[value : value + length]))
                value += length
            key += length
            if not same:
                positions.append(position)
        return positions


def _values(dicts: Iterable[Dict]) -> Iterable[Any]:
    return chain.from_iterable(map(operator.methodcaller("values"), dicts))
