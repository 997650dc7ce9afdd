"""Batch-norm folding as tensor math: nothing here changes a module.

A norm with fixed statistics computes ``scale * x + shift`` for each channel, so a convolution before it can take it
over. Scale and shift are kept in float64, and a folded weight is rounded once, to the weight's own type.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sensitivity.errors import ModelError
from sensitivity.quantize.weights import quantize_weight
from sensitivity.records import QuantSpec

Rounded = Callable[[Tensor, QuantSpec], Tensor]
"""What quantizes a weight as a spec says."""


def fold_scale_shift(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """What a norm does to each channel, or None if that depends on its input.

    Known are, in evaluation mode, ``BatchNorm1d``, ``2d``, ``3d``, ``SyncBatchNorm``, subclasses of them, and an
    ``InstanceNorm`` that tracks running statistics; and modules that hold ``weight``, ``bias``, ``running_mean`` and
    ``running_var`` of one length and no other tensor (FrozenBatchNorm2d). One of these that does not tell its ``eps``
    (transformers) is asked what it makes of a variance of zero. An activation inside the module (timm's BatchNormAct2d)
    is not part of the answer. Everything else gets None: GroupNorm, LayerNorm, a norm without running statistics or in
    training mode.

    Args:
        norm: Any module; not changed.

    Returns:
        Scale and shift, float64 (C,) on the norm's device, or None.
    """
    if not _is_known_batch_norm(norm) or getattr(norm, "running_mean", None) is None:
        return None
    eps = norm.eps if hasattr(norm, "eps") else _find_epsilon(norm)
    if eps is None:
        return None
    return scale_shift(norm.weight, norm.bias, norm.running_mean, norm.running_var, eps)  # type: ignore[arg-type]


@torch.no_grad()
def _find_epsilon(norm: nn.Module) -> float | None:
    """The epsilon that a frozen norm adds inside its forward; None if it is no norm of this form."""
    try:
        twin = copy.deepcopy(norm)
        held = {name: getattr(twin, name) for name in ("weight", "bias", "running_mean", "running_var")}
        unit_input = torch.ones(1, len(held["weight"]), 1, 1).to(held["weight"])
        for name, tensor in held.items():
            tensor.fill_(1.0 if name == "weight" else 0.0)
        epsilon = float(f"{float(twin(unit_input).double().flatten()[0]) ** -2:.4g}")
        x = torch.linspace(-2, 2, unit_input.numel()).to(unit_input).reshape(unit_input.shape)
        expected = scale_shift(norm.weight, norm.bias, norm.running_mean, norm.running_var, epsilon)  # type: ignore[arg-type]
        scale, shift = (values.reshape(unit_input.shape) for values in expected)
        return epsilon if torch.allclose(norm(x).double(), x.double() * scale + shift, rtol=1e-4, atol=1e-5) else None
    except (RuntimeError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None


def scale_shift(
    gamma: Tensor | None, beta: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Scale and shift of gamma * (x - mean) / sqrt(variance + eps) + beta.

    Args:
        gamma: Weight of the norm, (C,); None for ones.
        beta: Bias of the norm, (C,); None for zeros.
        mean: Running mean, (C,).
        variance: Running variance, (C,).
        eps: Added to the variance.

    Returns:
        Scale and shift, float64 (C,), without gradients.
    """
    scale = (variance.detach().double() + eps).rsqrt()
    if gamma is not None:
        scale = gamma.detach().double() * scale
    shift = -mean.detach().double() * scale
    return scale, shift if beta is None else beta.detach().double() + shift


def fold_batch_norm(
    weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *, output_axis: int = 0, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that has taken over the norm behind it.

    Args:
        weight: (out, in / groups, ...) of a convolution or linear layer; (in, out / groups, ...) of a transposed one.
        bias: (out,) or None.
        scale: (out,), see ``fold_scale_shift``.
        shift: (out,).
        output_axis: 0, or 1 for a transposed convolution.
        groups: Groups of the convolution; matters for a transposed one only.

    Returns:
        New weight and bias, of the weight's type.

    Raises:
        ModelError: If the norm has other channels than the convolution writes.
    """
    folded = weight.detach().double() * _along_outputs(scale, weight, output_axis, groups)
    start = torch.zeros_like(shift) if bias is None else bias.detach().double() * scale
    return folded.to(weight.dtype), (start + shift).to(weight.dtype)


@torch.no_grad()
def quantize_folded_weight(
    weight: Tensor,
    spec: QuantSpec,
    scale: Tensor,
    *,
    output_axis: int = 0,
    groups: int = 1,
    rounding: Rounded | None = None,
) -> Tensor:
    """A weight which, with its norm left in place, computes what the folded and quantized weight would.

    The scale is folded in, the product quantized, and the scale divided out again.

    Args:
        weight: As in ``fold_batch_norm``; not changed.
        spec: How the folded weight is quantized.
        scale: (out,), see ``fold_scale_shift``.
        output_axis: 0, or 1 for a transposed convolution.
        groups: Groups of the convolution; matters for a transposed one only.
        rounding: What quantizes the folded weight, given that and the spec; None rounds to nearest.

    Returns:
        New tensor of the weight's shape and type. Where the scale cannot be divided out (it is zero: the norm ignores
        what the convolution computes), the elements are the weight's own.

    Raises:
        ModelError: If the norm has other channels than the convolution writes.
        CalibrationError: If the folded weight is not finite.
        RecipeError: If the spec does not fit the weight.
    """
    spread = _along_outputs(scale, weight, output_axis, groups)
    folded = (weight.double() * spread).float()
    rounded = (rounding or partial(quantize_weight, output_axis=output_axis))(folded, spec)
    unfolded = (rounded.double() / spread).to(weight.dtype)
    return torch.where(torch.isfinite(unfolded), unfolded, weight)  # 0 / 0 is NaN


def _is_known_batch_norm(norm: nn.Module) -> bool:
    if isinstance(norm, _NormBase):
        return not norm.training
    own = dict(norm.named_parameters(recurse=False)) | dict(norm.named_buffers(recurse=False))
    own.pop("num_batches_tracked", None)
    one_length = len({tuple(tensor.shape) for tensor in own.values()}) == 1
    return own.keys() == {"weight", "bias", "running_mean", "running_var"} and one_length


def _along_outputs(values: Tensor, weight: Tensor, output_axis: int, groups: int) -> Tensor:
    """One value for each output channel, in a shape that broadcasts against the weight."""
    if output_axis not in (0, 1):
        raise ModelError(
            f"output channels of a weight are axis 0, or 1 when transposed; given output_axis={output_axis}."
        )
    inputs, outputs = weight.shape[1 - output_axis], weight.shape[output_axis]
    kernel = [1] * (weight.dim() - 2)
    channels = outputs if output_axis == 0 else outputs * groups
    if tuple(values.shape) != (channels,):
        raise ModelError(
            f"the norm has shape {tuple(values.shape)}, the convolution before it writes {channels} channels (weight "
            f"{tuple(weight.shape)}, output axis {output_axis}, groups {groups}). It is not this layer's norm."
        )
    if output_axis == 0:
        return values.reshape(channels, 1, *kernel)
    spread = values.reshape(groups, 1, outputs).expand(groups, inputs // groups, outputs)
    return spread.reshape(inputs, outputs, *kernel)
