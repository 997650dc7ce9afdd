"""Spearman's rank correlation, against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sensitivity.records.correlation import spearman


def test_spearman_is_that_of_scipy() -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    for _ in range(20):
        left, right = generator.integers(0, 6, 12).tolist(), generator.normal(size=12).tolist()  # with and without ties
        assert spearman(left, right) == pytest.approx(spearmanr(left, right).statistic, abs=1e-12)


@pytest.mark.parametrize("left", [[], [1.0], [1.0, 1.0, 1.0]])
def test_spearman_of_nothing_to_rank_is_not_a_number(left: list[float]) -> None:
    right = [float(number) for number in range(len(left))]
    assert math.isnan(spearman(left, right))
    assert math.isnan(spearman(right, left))
