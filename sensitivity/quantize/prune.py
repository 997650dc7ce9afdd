"""Prune a weight: by magnitude to a level, or n of every m input channels."""

from __future__ import annotations

import torch
from torch import Tensor

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.records import Pruning


def prune_weight(weight: Tensor, pruning: Pruning, *, output_axis: int = 0, groups: int = 1) -> Tensor:
    """The weight with the pruned elements set to zero.

    Args:
        weight: Floating-point tensor, (out, in / groups, ...), or (in, out / groups, ...) of a transposed convolution;
            not changed.
        pruning: Which elements to remove.
        output_axis: Axis of the output channels: 0, or 1 for a transposed convolution.
        groups: Groups of the convolution; matters for an n:m pattern in a transposed one only.

    Returns:
        New tensor of the same shape, type and device; what is kept is unchanged.

    Raises:
        RecipeError: If the pattern does not fit the weight.
        CalibrationError: If the weight holds NaN.
    """
    mask = pruning_mask(weight, pruning, output_axis=output_axis, groups=groups)
    return torch.where(mask, weight.detach(), torch.zeros_like(weight))


def pruning_mask(weight: Tensor, pruning: Pruning, *, output_axis: int = 0, groups: int = 1) -> Tensor:
    """Which elements are kept: a bool tensor of the weight's shape; arguments and errors as in ``prune_weight``."""
    if bool(torch.isnan(weight).any()):
        raise CalibrationError(
            f"a weight of shape {tuple(weight.shape)} holds NaN, which has no magnitude to prune by."
        )
    if pruning.n is not None and pruning.m is not None:
        return pattern_mask(weight, pruning.n, pruning.m, output_axis=output_axis, groups=groups)
    return magnitude_mask(weight, pruning.level or 0.0)  # a Pruning without a pattern has a level


def magnitude_mask(weight: Tensor, level: float) -> Tensor:
    """Keep all but the round(level * elements) elements of smallest magnitude, half to even.

    Of equal magnitudes, those that come first in memory order are removed first.

    Args:
        weight: Tensor of any shape.
        level: Share of elements to remove, in [0, 1).

    Returns:
        Bool tensor of the weight's shape.

    Source:
        ``torch.nn.utils.prune.l1_unstructured`` of torch 2.13: as many elements, and the same ones where no two
        magnitudes at the limit are equal. Which of equal ones it removes is not defined.
    """
    removed = round(level * weight.numel())
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[weight.detach().abs().reshape(-1).argsort(stable=True)[:removed]] = False
    return mask.reshape(weight.shape)


def pattern_mask(weight: Tensor, n: int, m: int, *, output_axis: int = 0, groups: int = 1) -> Tensor:
    """Keep the n largest of every m consecutive input channels, for each output channel and kernel position.

    Of equal magnitudes, those of later input channels are kept.

    Args:
        weight: (out, in / groups, ...), or (in, out / groups, ...) of a transposed convolution.
        n: Elements kept.
        m: Elements in a group.
        output_axis: 0, or 1 for a transposed convolution.
        groups: Groups of the convolution; matters for a transposed one only.

    Returns:
        Bool tensor of the weight's shape.

    Raises:
        RecipeError: If m does not divide the number of input channels that an output channel reads. Engines run such
            a layer dense; a depthwise convolution is the usual case.

    Source:
        Mishra et al. 2021, "Accelerating sparse deep neural networks" (2:4 along the input channels).
    """
    inputs = weight.movedim(1 - output_axis, 0)
    readable = inputs.shape[0] if output_axis == 0 else inputs.shape[0] // groups
    if readable % m:
        raise RecipeError(
            f"an {n}:{m} pattern needs groups of {m} input channels, but each output channel of this weight, shape "
            f"{tuple(weight.shape)}, reads {readable}. Prune this layer by level, or leave it out."
        )
    order = inputs.detach().abs().reshape(-1, m, *inputs.shape[1:]).argsort(dim=1, stable=True)
    mask = torch.ones_like(order, dtype=torch.bool).scatter_(1, order[:, : m - n], False)
    return mask.flatten(0, 1).movedim(0, 1 - output_axis)
