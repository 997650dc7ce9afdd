"""The rule of reuse, by hand, and as planned and followed on real passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, partialmethod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts.task import arguments_of
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.sweep.replay.replayer import Replayer
from sensitivity.sweep.replay.reuse import CallOrder, Output, ReuseRule, StandIn
from tests.models import CASES

# a model (10) that calls a chain (20) of three modules (1, 2, 3), the first of which calls another (4), and a head (5)
MODULES = [0, 10, 20, 1, 4, 2, 3, 5]
LAST = [8, 8, 7, 5, 5, 6, 7, 8]
CHAIN = {3: 5, 5: 6}
EVERY = set(range(1, 8))


def rule(perturbed: int, *, skippable: Iterable[int] = EVERY, recorded: Iterable[Output] = EVERY) -> ReuseRule:
    order = CallOrder(MODULES, LAST, CHAIN, frozenset(skippable))
    around = {1: {1, 20, 10}, 2: {2, 20, 10}, 3: {3, 20, 10}, 4: {4, 1, 20, 10}, 5: {5, 10}}[perturbed]
    return ReuseRule(order, frozenset({perturbed}), around, set(recorded).__contains__)


def answers(rule: ReuseRule, same_arguments: dict[int, Output]) -> list[Output | StandIn | None]:
    return [rule.for_call(n, MODULES[n], partial(same_arguments.get, n)) for n in range(1, 8)]


def test_what_was_over_before_the_first_perturbed_call_is_answered_and_a_chain_by_its_last_output() -> None:
    assert answers(rule(5), {}) == [None, 2, StandIn.ITS_INPUT, 4, StandIn.ITS_INPUT, 6, None]
    assert answers(rule(3), {}) == [None, None, StandIn.ITS_INPUT, 4, 5, None, None]
    assert answers(rule(4), {}) == [None] * 7


def test_a_call_that_must_run_ends_the_chain_in_front_of_it() -> None:
    assert answers(rule(5, skippable=EVERY - {5}), {}) == [None, 2, 3, 4, None, 6, None]


def test_where_the_end_of_a_chain_is_not_kept_its_parts_are_answered_as_far_as_they_are() -> None:
    assert answers(rule(5, recorded=EVERY - {2, 6}), {}) == [None, None, 3, 4, 5, None, None]
    assert answers(rule(5, recorded={4}), {}) == [None, None, None, 4, None, None, None]


def test_later_calls_are_answered_by_their_arguments_unless_they_hold_what_is_perturbed() -> None:
    everything_as_before: dict[int, Output] = dict(zip(EVERY, EVERY, strict=True))
    assert answers(rule(2), everything_as_before) == [None, None, 3, 4, None, 6, 7]
    assert answers(rule(2, recorded=EVERY - {7}), everything_as_before)[-1] is None
    assert rule(2).for_function(lambda: 3) == 3
    assert rule(2, recorded=()).for_function(lambda: 3) is None
    assert rule(2).for_function(lambda: None) is None


def test_a_module_that_is_never_called_perturbs_nothing() -> None:
    order = CallOrder(MODULES, LAST, CHAIN, frozenset(EVERY))
    assert order.first_of({99}) == len(MODULES)
    assert order.first_of({99, 3, 1}) == 3


def planned_and_followed(
    name: str, noted: list[Output | StandIn | None]
) -> list[tuple[set[Output], set[Output], set[Output]]]:
    """For each layer of a model what was planned to be answered with, what was, and what was kept for it."""
    case = CASES[name]
    model = case.build()
    args, kwargs = arguments_of(case.inputs)
    perturber, replayer = Perturber(model), Replayer(model)
    triples = []
    with torch.no_grad(), untouched(model):
        for layer in sv.wrap(model, case.inputs).layers:
            modules = perturber.touched({layer: sv.INT4_WEIGHTS})
            replayer.record(lambda: model(*args, **kwargs), [modules])
            plan, record = replayer._recording.plan, replayer._recording.record
            noted.clear()
            with perturber.applied({layer: sv.INT4_WEIGHTS}), replayer.replaying(modules):
                model(*args, **kwargs)
            followed = {output for output in noted if output is not None and output is not StandIn.ITS_INPUT}
            triples.append((set(plan.wanted), followed, set(record.kept)))
    return triples


@pytest.mark.parametrize("operators_pay", [True, False])
def test_a_pass_is_answered_with_just_what_was_planned(operators_pay: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensitivity.sweep.replay.foresight.OPERATOR_SECONDS", 0.0 if operators_pay else 1.0)
    noted: list[Output | StandIn | None] = []

    def note(original: Callable[..., Output | StandIn | None], *args: Any) -> Output | StandIn | None:
        noted.append(original(*args))
        return noted[-1]

    for method in ("for_call", "for_function"):
        monkeypatch.setattr(ReuseRule, method, partialmethod(partial(note, getattr(ReuseRule, method))))
    compared = 0
    for name in sorted(CASES)[::8]:
        for planned, followed, recorded in planned_and_followed(name, noted):
            if planned == recorded:
                assert followed == planned, name
                compared += bool(planned)
    assert compared > 10


@pytest.mark.parametrize("kind", ["chain", "residual"])
def test_planning_for_twice_the_layers_asks_the_rule_twice_as_often(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Any:
            return x + self.conv(x)

    questions: list[int] = []
    original = ReuseRule.for_call

    def counting(self: ReuseRule, *args: Any) -> Any:
        questions.append(1)
        return original(self, *args)

    monkeypatch.setattr(ReuseRule, "for_call", counting)
    counts = []
    for layers in (20, 40, 80):
        make = Residual if kind == "residual" else lambda: nn.Conv2d(2, 2, 1)
        model, x = nn.Sequential(*(make() for _ in range(layers))).eval(), torch.zeros(1, 2, 2, 2)
        questions.clear()
        with torch.no_grad():
            convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
            Replayer(model, operators=False).record(partial(model, x), [{conv} for conv in convs])
        counts.append(len(questions))
    assert counts[0] >= 20
    assert counts[2] - counts[1] <= 2.1 * (counts[1] - counts[0]), counts
