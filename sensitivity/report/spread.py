"""What the distribution of a layer's values means for quantizing them, in words."""

from __future__ import annotations

from sensitivity.records.results.diagnosis import Finding
from sensitivity.records.results.distribution import MOST_VALUES, Distribution

UNEVEN = 4.0
"""A channel so many times as large as the median one is told of."""

UNUSED = 0.1
"""A share of the range that no value lies in, on one side of zero, is told of from here on."""


def spread_of(finding: Finding) -> str:
    """What there is to say of a layer's inputs and weights; nothing where neither was counted."""
    inputs = [] if finding.inputs is None else sentences(finding.inputs, "inputs")
    weights = [] if finding.weights is None else sentences(finding.weights, "weights")
    return " ".join([*inputs, *weights])


def sentences(values: Distribution, noun: str) -> list[str]:
    """How the values lie in the range that codes stand for, and whether one channel is much larger than others.

    Args:
        values: What was counted.
        noun: What they are called: ``inputs``, ``weights``.
    """
    if not values.largest:
        return [f"All {noun} are zero."]
    noteworthy = [_share_of_range(values, noun), _unused(values, noun)]
    if values.channel_ratio is not None and values.channel_ratio >= UNEVEN:
        kind = "Channel" if noun == "inputs" else "Output channel"
        noteworthy.append(
            f"{kind} {values.channel} reaches {values.channel_ratio:.3g} times as far as the median channel."
        )
    return [sentence for sentence in noteworthy if sentence]


def _share_of_range(values: Distribution, noun: str) -> str:
    reach, limit = values.largest, "largest absolute value"
    if values.covered is not None and max(map(abs, values.covered)) > 0.0:
        reach, limit = max(map(abs, values.covered)), "range"
    share = values.most_within / reach
    if share > 1.0:
        return f"More than {1.0 - MOST_VALUES:.1%} of the {noun} lie beyond the range, which cuts them off."
    return f"{MOST_VALUES:.1%} of the {noun} lie within {share:.0%} of the {limit}."


def _unused(values: Distribution, noun: str) -> str:
    """Values of one sign in a range of both."""
    if values.covered is None or values.covered[0] >= values.covered[1]:
        return ""
    low, high = values.covered
    for unused, is_one_sided, side in (
        (-low, values.low >= 0.0, "below"),
        (high, values.high <= 0.0, "above"),
    ):
        share = unused / (high - low)
        if is_one_sided and share >= UNUSED:
            return f"None of the {noun} is {side} zero, so that {share:.0%} of the range is not used."
    return ""
