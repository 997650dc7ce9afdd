"""Many dicts compared at once with what they bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.perturb.state.attributes import Attributes
from sensitivity.perturb.state.bindings import Bindings
from sensitivity.perturb.state.state import ModelState


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda first, _: first.update(a=first["b"], b=first["a"]), 0),
        (lambda first, _: first.update(renamed=first.pop("b")), 0),
        (lambda first, _: first.update(b=[1]), 0),
        (lambda first, _: first.clear(), 0),
        (lambda _, second: second.update(added=None), 1),
        (lambda _, second: second.pop("x"), 1),
    ],
    ids=["exchanged", "renamed", "an equal object", "emptied", "added", "removed"],
)
def test_the_dict_that_binds_something_else_is_named(change: Callable[..., Any], where: int) -> None:
    first, second, third = {"a": object(), "b": [1]}, {"x": 1}, {"y": 2}
    bindings = Bindings([first, second], [third])
    assert bindings.different() == []
    change(first, second)
    assert bindings.different() == [where]


def test_of_some_dicts_the_names_alone_count() -> None:
    bound, named = {"a": 1}, {"weight": object()}
    bindings = Bindings([bound], [named])
    named["weight"] = object()
    assert bindings.same()
    named["added"] = object()
    assert bindings.different() == [1]


class Counting(nn.Module):
    """Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.passes = nn.Linear(2, 2), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.layer(x)


def test_a_changed_attribute_is_found_again_after_flags_have_moved() -> None:
    model = nn.Sequential(Counting(), Counting()).train()
    attributes = Attributes(dict(model.named_modules()))
    model.eval()
    assert attributes.changed_modules() == set()
    for _ in range(3):
        model(torch.zeros(1, 2))
        assert {id(model[0]), id(model[1])} <= attributes.changed_modules()
        assert attributes.put_back() == []
        assert [counting.passes for counting in model] == [0, 0]


def test_a_state_for_passes_remembers_the_flags_of_now_and_the_content_of_then() -> None:
    model = Counting().train()
    before = ModelState(model)
    before.set_training(False)
    passes = before.for_passes()
    model.passes, model.training = 7, True
    passes.reset()
    assert (model.passes, model.training) == (0, False)
    model.passes = 7
    before.restore()
    assert (model.passes, model.training) == (0, True)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_module_is_remembered_although_what_it_binds_cannot_be_iterated() -> None:
    model = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))  # type: ignore[no-untyped-call]
    assert ModelState(model).restore() == []
