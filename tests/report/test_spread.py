"""What a distribution means in words, for numbers made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sensitivity.records.results.diagnosis import Finding
from sensitivity.records.results.distribution import Distribution
from sensitivity.report.spread import sentences, spread_of

COUNTED = Distribution(-1.0, 0.5, (1, 20, 9, 0), (0, 21, 8, 1), -1.0, 1.0, 0.12, (-1.0, 0.99), channel=7)


def test_how_much_of_the_range_most_values_need_is_told() -> None:
    assert sentences(COUNTED, "inputs") == ["99.9% of the inputs lie within 12% of the range."]
    uncovered = replace(COUNTED, covered=None, low=-0.24)
    assert sentences(uncovered, "weights") == ["99.9% of the weights lie within 12% of the largest absolute value."]
    assert sentences(replace(COUNTED, most_within=1.2), "inputs") == [
        "More than 0.1% of the inputs lie beyond the range, which cuts them off."
    ]


@pytest.mark.parametrize(
    ("low", "high", "covered", "sentence"),
    [
        (0.0, 1.0, (-1.0, 1.0), "None of the inputs is below zero, so that 50% of the range is not used."),
        (-1.0, 0.0, (-1.0, 3.0), "None of the inputs is above zero, so that 75% of the range is not used."),
        (-0.1, 1.0, (-1.0, 1.0), ""),
        (0.0, 1.0, (-0.05, 1.0), ""),
    ],
)
def test_a_side_of_the_range_without_values_is_told(
    low: float, high: float, covered: tuple[float, float], sentence: str
) -> None:
    _, *others = sentences(replace(COUNTED, low=low, high=high, covered=covered), "inputs")
    assert others == ([sentence] if sentence else [])


def test_a_channel_far_larger_than_the_others_is_told_and_one_a_little_larger_is_not() -> None:
    assert sentences(replace(COUNTED, channel_ratio=40.0), "inputs")[1] == (
        "Channel 7 reaches 40 times as far as the median channel."
    )
    assert "Output channel 7 reaches 5.25 times" in sentences(replace(COUNTED, channel_ratio=5.25), "weights")[1]
    assert len(sentences(replace(COUNTED, channel_ratio=3.9), "inputs")) == 1


def test_values_that_are_all_zero_and_layers_that_were_not_counted_are_told() -> None:
    zero = replace(COUNTED, low=0.0, high=0.0)
    assert spread_of(Finding("a", 12.0, inputs=zero)) == "All inputs are zero."
    assert spread_of(Finding("a", 12.0)) == ""
