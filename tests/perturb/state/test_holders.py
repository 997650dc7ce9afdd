"""What decides whether something holds what it held, and what lets it hold that again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sensitivity.perturb.state.holders import names


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
    holder = names("net", owner, frozenset({"forward"}))
    owner["forward"] = object()
    assert not holder.changed()
