"""Signal over noise in decibels."""

from __future__ import annotations

import math

import pytest

from sensitivity.records.decibels import CEILING_DB, decibels


@pytest.mark.parametrize(("signal", "noise", "expected"), [(100.0, 1.0, 20.0), (1.0, 1000.0, -30.0), (2.0, 2.0, 0.0)])
def test_decibels_are_ten_times_the_logarithm_of_signal_over_noise(
    signal: float, noise: float, expected: float
) -> None:
    assert decibels(signal, noise) == pytest.approx(expected)
    assert decibels(signal, noise, ceiling=CEILING_DB) == pytest.approx(expected)


def test_without_noise_or_without_a_signal_the_ratio_is_the_ceiling_or_its_negative() -> None:
    assert decibels(1.0, 0.0) == decibels(0.0, 0.0) == math.inf
    assert decibels(0.0, 1.0) == -math.inf
    assert decibels(1.0, 0.0, ceiling=150.0) == decibels(1e20, 1.0, ceiling=150.0) == 150.0
    assert decibels(0.0, 1.0, ceiling=150.0) == decibels(1.0, 1e20, ceiling=150.0) == -150.0
