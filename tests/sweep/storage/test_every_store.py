"""Our stores pass the suite that an outsider's has to pass, and the suite finds what is wrong with a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensitivity.contracts import Store
from sensitivity.sweep.storage.journal import Journal, MemoryStore
from sensitivity.sweep.storage.spilled import SpilledStore
from sensitivity.testing.stores import VALUES, StoreSuite


@pytest.fixture(params=["memory", "spilled", "journal"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "spilled":
        yield SpilledStore(1)
    else:
        with Journal(tmp_path / "store.jsonl") as journal:
            yield journal


class TestOurStores(StoreSuite):
    """In memory, in a file, and in memory with a file for the rest."""

    def reopened(self, store: Store) -> Store:
        if not isinstance(store, Journal):
            return store
        store.close()
        copy = MemoryStore()
        with Journal(store.path) as again:
            for key in VALUES:
                copy.add(key, again.read(key))
        return copy


class Latest(MemoryStore):
    def add(self, key: str, value: Any) -> None:
        self._values[key] = value


class Json(MemoryStore):
    def add(self, key: str, value: Any) -> None:
        super().add(key, json.loads(json.dumps(value, default=str, skipkeys=True)))


class Silent(MemoryStore):
    def read(self, key: str) -> Any:
        return self._values.get(key)


class Stripped(MemoryStore):
    def __contains__(self, key: str) -> bool:
        return key.strip() in self._values

    def read(self, key: str) -> Any:
        return self._values[key.split("\n")[0]]

    def add(self, key: str, value: Any) -> None:
        super().add(key.split("\n")[0], value)


class Forgetful(MemoryStore):
    def add(self, key: str, value: Any) -> None:
        if "another" in key:
            super().add(key, value)


class Lower(MemoryStore):
    def read(self, key: str) -> Any:
        return super().read(key.lower())

    def add(self, key: str, value: Any) -> None:
        super().add(key.lower(), value)


class Full(MemoryStore):
    def __contains__(self, key: str) -> bool:
        return True


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Full, "test_it_fits_the_contract"),
        (Json, "test_values_come_back_to_the_last_bit"),
        (Forgetful, "test_values_come_back_to_the_last_bit"),
        (Lower, "test_any_text_is_a_key"),
        (Latest, "test_the_first_value_of_a_key_stays"),
        (Silent, "test_what_is_not_there_is_a_key_error"),
        (Stripped, "test_any_text_is_a_key"),
    ],
)
def test_the_suite_finds_what_is_wrong(broken: type[MemoryStore], test: str) -> None:
    run = getattr(StoreSuite(), test)
    with pytest.raises(AssertionError):
        run(broken())
    run(MemoryStore())
