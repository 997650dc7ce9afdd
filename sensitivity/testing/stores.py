"""What every store must do, as a class of tests to inherit.

Give the test file the fixture ``store``, an empty one for each test, and name the subclass ``Test...``; pytest runs the
rest::

    @pytest.fixture
    def store(): return MyStore()

    class TestMyStore(StoreSuite):
        def reopened(self, store): return MyStore(store.path)  # only where it outlives the object
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from sensitivity.contracts import Store

VALUES: dict[str, Any] = {
    "nothing": None,
    "truth": True,
    "a large whole number": 2**70,
    "a float that decimals round": 0.1 + 0.2,
    "minus zero": -0.0,
    "not a number": math.nan,
    "infinity": -math.inf,
    "a complex number": np.complex128(1 - 2j),
    "text": "Größe\n\u2028$array",
    "an empty dict": {},
    "keys of any kind": {1: "a", (2, 3): "b", "$tuple": "c"},
    "a tuple in a list": [(1, 2.5), [], ()],
    "an array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "an array of no elements": np.zeros((0, 4)),
    "an array of one number": np.array(3, np.int16),
    "an array of truths": np.array([True, False]),
    "an array in column order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "an array with NaN": np.array([math.nan, -0.0, math.inf]),
    "an array of text": np.array(["a", "Größe"]),
    "a number of numpy": np.float32(0.1),
    "bytes": b"\x00\xff",
}
"""What predictions are made of."""


class StoreSuite:
    """The tests; the file of the subclass gives the fixture ``store``."""

    def reopened(self, store: Store) -> Store:
        """The same store as the next process finds it; override it where values outlive the object."""
        return store

    def test_it_fits_the_contract(self, store: Store) -> None:
        """It has the methods of ``Store``, and nothing in it."""
        assert isinstance(store, Store)
        assert all(key not in store for key in VALUES)

    def test_values_come_back_to_the_last_bit(self, store: Store) -> None:
        """With their types; an array may come back in row order."""
        for key, value in VALUES.items():
            store.add(key, value)
        again = self.reopened(store)
        for key, value in VALUES.items():
            assert key in again
            assert _same(again.read(key), value), key

    def test_the_first_value_of_a_key_stays(self, store: Store) -> None:
        """Adding another is no error: a result that is measured twice counts once."""
        store.add("key", {"drop": 1.0})
        store.add("key", {"drop": 2.0})
        assert store.read("key") == {"drop": 1.0}

    def test_what_is_not_there_is_a_key_error(self, store: Store) -> None:
        """Before and after something else was added."""
        for _ in range(2):
            try:
                store.read("missing")
            except KeyError:
                store.add("another", 1)
            else:
                raise AssertionError("a KeyError was expected, and nothing was raised")

    def test_any_text_is_a_key(self, store: Store) -> None:
        """Also where one begins another, or holds what a file would stumble over."""
        keys = ["", "a", "A", "a b", "a\nb", "a/b", "..", '"', "Größe", "x" * 1000]
        for number, key in enumerate(keys):
            store.add(key, number)
        assert [store.read(key) for key in keys] == list(range(len(keys)))


def _same(first: Any, second: Any) -> bool:
    """Whether two trees are equal in types and bits; the order of keys and the order in memory do not count."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, np.ndarray | np.generic):
        return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
    if isinstance(first, float):
        return struct.pack(">d", first) == struct.pack(">d", second)
    return bool(first == second)
