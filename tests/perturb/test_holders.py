"""What tells at once that a model holds what it held, and what decides where that is not so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sensitivity.perturb.holders import names


class CountingDict(dict[str, Any]):
    """A dict that counts how often its items are read one by one."""

    reads = 0

    def items(self) -> Any:
        self.reads += 1
        return super().items()


def test_an_untouched_dict_is_not_read_again_item_by_item() -> None:
    owner = CountingDict(scale=1.5, steps=[])
    holder = names("net", owner)
    remembered = owner.reads
    assert holder.put_back()
    assert owner.reads == remembered
    owner["scale"] = 2.0
    assert holder.changed()
    assert owner.reads == remembered + 1


@pytest.mark.parametrize(
    "change",
    [
        lambda owner: owner.update(first=owner["second"], second=owner["first"]),
        lambda owner: owner.update(renamed=owner.pop("second")),
        lambda owner: owner.update(second=[1]),
        lambda owner: owner.update(third=None),
        lambda owner: owner.pop("second"),
        lambda owner: owner.clear(),
    ],
    ids=["exchanged", "renamed", "an equal object", "added", "removed", "emptied"],
)
def test_every_change_of_what_names_are_bound_to_is_seen_and_put_back(change: Callable[[dict[str, Any]], Any]) -> None:
    first, second = object(), [1]
    owner = {"first": first, "second": second}
    holder = names("net", owner)
    change(owner)
    assert holder.changed()
    assert holder.put_back()
    assert owner.keys() == {"first", "second"}
    assert owner["first"] is first
    assert owner["second"] is second


def test_what_was_added_to_an_empty_dict_is_taken_away() -> None:
    owner: dict[str, Any] = {}
    holder = names("net", owner)
    assert not holder.changed()
    owner["counter"] = 3
    assert holder.changed()
    assert holder.put_back()
    assert owner == {}


def test_a_change_of_an_ignored_name_is_none() -> None:
    owner = {"forward": object(), "scale": object()}
    holder = names("net", owner, frozenset({"forward"}).__contains__)
    owner["forward"] = object()
    assert not holder.changed()
