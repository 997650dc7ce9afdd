"""The exact solver against trying every choice."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sensitivity as sv
from sensitivity.search.budget import Option, cheapest, least_noise


def options_of(groups: int, choices: int, seed: int) -> list[Option]:
    generator = np.random.default_rng(seed)
    names: list[Any] = [(SimpleNamespace(name=str(number)),) for number in range(groups)]
    names = [(f"layer {number}",) for number in range(groups)]
    return [
        Option(name, sv.INT8 if choice else None, float(generator.random()), float(generator.integers(1, 20)))
        for name in names
        for choice in range(choices)
    ]


def brute_force(options: list[Option], budget: float) -> float | None:
    groups = [list(some) for _, some in itertools.groupby(options, key=lambda option: option.group)]
    sums = [
        sum(option.noise for option in chosen)
        for chosen in itertools.product(*groups)
        if sum(option.cost for option in chosen) <= budget
    ]
    return min(sums, default=None)


@pytest.mark.parametrize("seed", range(6))
def test_the_solver_finds_what_trying_every_choice_finds(seed: int) -> None:
    options = options_of(6, 3, seed)
    for budget in (cheapest(options), cheapest(options) + 7.0, 60.0, float("inf")):
        chosen = least_noise(options, budget)
        assert chosen is not None
        assert [option.group for option in chosen] == list(dict.fromkeys(option.group for option in options))
        assert sum(option.cost for option in chosen) <= budget
        assert sum(option.noise for option in chosen) == pytest.approx(brute_force(options, budget))


def test_no_choice_is_within_a_budget_below_the_cheapest() -> None:
    options = options_of(4, 2, 0)
    assert least_noise(options, cheapest(options) - 1.0) is None
    assert brute_force(options, cheapest(options) - 1.0) is None
