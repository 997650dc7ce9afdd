"""Ready-made recipes. No torch here: the front door offers these at once."""

from __future__ import annotations

from sensitivity.errors import RecipeError
from sensitivity.records.arguments import checked
from sensitivity.records.recipes.recipe import Pruning, QuantSpec, Recipe

_INT8_WEIGHT = QuantSpec("int8", "per-channel")
_INT8_ACTIVATION = QuantSpec("int8", observer="percentile", percentile=99.99, sample_every=8)

INT8 = Recipe("int8", weights=_INT8_WEIGHT, activations=_INT8_ACTIVATION)
"""What every engine runs: norm-folded weight per channel, layer input per tensor, symmetric, zero point 0.

Activation ranges hold 99.99 % of the values, which lost least on average of the symmetric ranges that
``benchmarks/recipes.py`` compares over trained networks; see ``docs/recipes.md``.
"""

INT8_MINMAX = Recipe("int8-minmax", weights=_INT8_WEIGHT, activations=QuantSpec("int8"))
"""``INT8`` with plain min-max ranges: what most tools do by default, to compare with."""

INT8_AFFINE = Recipe(
    "int8-affine",
    weights=QuantSpec("int8", "per-channel", observer="mse"),
    activations=QuantSpec("uint8", symmetric=False, observer="mse", sample_every=8),
)
"""uint8 activations with a zero point, which OpenVINO and ONNX Runtime run; ranges of least squared error."""

INT8_WEIGHTS = Recipe("int8-weights", weights=_INT8_WEIGHT)
"""``INT8`` with activations left in floating point; needs no calibration."""

INT8_ACTIVATIONS = Recipe("int8-activations", activations=_INT8_ACTIVATION)
"""``INT8`` with weights left in floating point."""

INT4_WEIGHTS = Recipe("int4-weights", weights=QuantSpec("int4", "per-channel"))
"""Weights in 4 bits per channel; needs no calibration."""

FP8 = Recipe("fp8", weights=QuantSpec("fp8_e4m3", "per-channel"), activations=QuantSpec("fp8_e4m3"))
"""E4M3 for weights and activations, placed as in ``INT8``."""

THESIS = Recipe(
    "thesis",
    weights=QuantSpec("int8", "per-channel", observer="ema"),
    activations=QuantSpec("int8", observer="ema"),
    placement="conv-norm-act",
)
"""The thesis's simulation: input, raw weight, convolution output, norm output and activation output, moving average.

Its program divides the largest absolute value by 127.5, this library by 127: steps differ by 0.4 %.
"""

PRESETS = (INT8, INT8_AFFINE, INT8_MINMAX, INT8_WEIGHTS, INT8_ACTIVATIONS, INT4_WEIGHTS, FP8, THESIS)
"""All of the above, in the order in which people are told of them."""


@checked(RecipeError)
def Prune(level_or_pattern: float | str) -> Recipe:  # noqa: N802 - stands beside INT8 where a recipe is expected
    """A recipe that removes weights.

    Args:
        level_or_pattern: Share of each layer's weights to remove by magnitude, in [0, 1); or an n:m pattern as text:
            ``"2:4"`` keeps the 2 largest of every 4 consecutive input channels.

    Raises:
        RecipeError: If it is neither.

    Example:
        >>> Prune("2:4").pruning
        Pruning(level=None, n=2, m=4)
    """
    if not isinstance(level_or_pattern, str):
        level = float(level_or_pattern)
        if not 0.0 <= level < 1.0:
            raise RecipeError(f"level_or_pattern={level:g} must lie in [0, 1): it is the share of weights removed.")
        return Recipe(f"prune-{level:g}", pruning=Pruning(level=level))
    kept_count, colon, group = level_or_pattern.partition(":")
    if not (colon and kept_count.isdecimal() and group.isdecimal()):
        raise RecipeError(
            f"level_or_pattern={level_or_pattern!r} is not of the form 'n:m'. Give e.g. '2:4', or a level as a "
            "number: Prune(0.5)."
        )
    return Recipe(f"prune-{level_or_pattern}", pruning=Pruning(n=int(kept_count), m=int(group)))
