"""Quantize a tensor: to integer codes, back, or there and back in one step.

Every format rounds half to even and saturates. There are two ways to divide by the scale:

- ``torch``: x * (1 / scale), the reciprocal rounded to float32, as ``torch.fake_quantize_*`` does;
- ``onnx``: x / scale, as ONNX QuantizeLinear and TensorRT define it.

They differ by one code where x / scale falls within a rounding error of a half (about one value in a million).

The arithmetic is written in elementwise steps because ``torch.fake_quantize_per_tensor_affine`` is a scalar loop on a
CPU, several times slower, and turns NaN into the lowest code, which would hide a broken layer: here NaN stays NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.formats import tensor_type
from sensitivity.quantize.scales import QuantParams, params_from_range
from sensitivity.records import QuantSpec

Rounding = Literal["torch", "onnx"]

_EXPONENT_BITS = 0x7F800000  # of a float32
_SQRT2_MANTISSA = 0x003504F4  # of the first float32 above the square root of 2
_CARRY_FROM_SQRT2 = 0x00800000 - _SQRT2_MANTISSA


def fake_quantize(x: Tensor, params: QuantParams, *, rounding: Rounding = "torch") -> Tensor:
    """The tensor as it is after quantizing and dequantizing.

    Finite float32 and half values give, bit for bit, what ``torch.fake_quantize_per_tensor_affine`` and
    ``_per_channel_affine`` give (``rounding="torch"``); float32 values what QuantizeLinear followed by DequantizeLinear
    gives in ONNX Runtime (``"onnx"``). Half types are computed in float32 and rounded once at the end. NaN stays
    NaN, infinities saturate; gradients do not pass.

    Args:
        x: Floating-point tensor of any shape; not changed.
        params: Scales on the same device.
        rounding: How to divide by the scale, see above.

    Returns:
        New tensor of the same shape, type, device and memory format.

    Raises:
        RecipeError: If ``x`` is not floating-point, or its channels are not those of ``params``.
    """
    steps = _to_steps(x, params, rounding)
    return steps.mul_(params.spread(params.scale, x.shape)).to(x.dtype)


def quantize(x: Tensor, params: QuantParams, *, rounding: Rounding = "torch") -> Tensor:
    """The tensor's codes.

    Args:
        x: Floating-point tensor of any shape; not changed.
        params: Scales on the same device.
        rounding: How to divide by the scale, see above.

    Returns:
        Codes, same shape, of the type that ``params.format.dtype`` names: one code an element, also below 8 bits.

    Raises:
        CalibrationError: If ``x`` holds NaN, which has no code.
        RecipeError: If ``x`` is not floating-point, or its channels are not those of ``params``.
    """
    steps = _to_steps(x, params, rounding)
    if bool(torch.isnan(steps).any()):
        raise CalibrationError(
            f"a tensor of shape {tuple(x.shape)} holds NaN, which has no {params.format.name} code. Find the layer "
            "that computes it first."
        )
    if params.format.kind == "integer":
        steps = steps + params.spread(params.zero_point, x.shape)
    elif params.format.kind == "log":
        _, exponent = torch.frexp(steps.abs())
        steps = torch.sign(steps) * (exponent + (params.format.qmax - 1))
    return steps.to(tensor_type(params.format))


def dequantize(codes: Tensor, params: QuantParams) -> Tensor:
    """The float32 values that codes stand for.

    Args:
        codes: What ``quantize`` returned with the same parameters.
        params: Scales on the same device.

    Raises:
        RecipeError: If the channels of ``codes`` are not those of ``params``.
    """
    steps = codes.float()
    if params.format.kind == "integer":
        steps = steps - params.spread(params.zero_point, codes.shape)
    elif params.format.kind == "log":
        steps = torch.ldexp(torch.sign(steps), steps.abs() - params.format.qmax)
    return steps * params.spread(params.scale, codes.shape)


def activation_quantizer(
    low: Sequence[float],
    high: Sequence[float],
    spec: QuantSpec,
    *,
    device: torch.device | str | None = None,
    rounding: Rounding = "torch",
) -> Callable[[Tensor], Tensor]:
    """``fake_quantize`` for an activation whose range was measured, with everything prepared once.

    Args:
        low: Smallest value: one number per tensor, or one for each channel.
        high: Largest value, likewise.
        spec: How the activation is quantized.
        device: Where the activation lives; None for the CPU.
        rounding: How to divide by the scale, see above.

    Raises:
        CalibrationError: If the range is not finite.
        RecipeError: If the spec does not fit the range.
    """
    shape = (-1,) if spec.granularity == "per-channel" else ()
    lowest, highest = (torch.tensor(end, dtype=torch.float64, device=device).reshape(shape) for end in (low, high))
    return partial(fake_quantize, params=params_from_range(lowest, highest, spec), rounding=rounding)


def _to_steps(x: Tensor, params: QuantParams, rounding: Rounding) -> Tensor:
    """The nearest value of the format at scale one (integers: code - zero point), in a new float32 or wider tensor."""
    if not x.is_floating_point():
        raise RecipeError(f"only floating-point tensors can be quantized, not {x.dtype}. Convert it first.")
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    scale = params.spread(params.scale, x.shape)
    if rounding == "torch":
        steps = work * scale.reciprocal()
    elif rounding == "onnx":
        steps = work / scale
    else:
        raise RecipeError(f"rounding {rounding!r} is not known. Choose 'torch' or 'onnx'.")
    if params.format.kind == "integer":
        return _round_integer(steps, params, x.shape)
    if params.format.kind == "float":
        return steps.clamp_(params.qmin, params.qmax).to(tensor_type(params.format)).to(work.dtype)
    return _round_log2(steps, params.format.qmax)


def _round_integer(steps: Tensor, params: QuantParams, shape: torch.Size) -> Tensor:
    steps.round_()
    if params.symmetric:
        steps.clamp_(params.qmin, params.qmax)
    else:
        zero_point = params.spread(params.zero_point, shape)
        steps.clamp_(params.qmin - zero_point, params.qmax - zero_point)
    return steps.add_(0.0)  # -0.0 becomes 0.0: integers have one zero


def _round_log2(steps: Tensor, top_code: int) -> Tensor:
    """Nearest power of two on a logarithmic scale, from 1 down to 2 ** (1 - top_code); below half a step of that, zero.

    Read off the bits and not computed by a logarithm, so that powers of two are kept exactly on every device: adding
    carries into the exponent where the mantissa is at least that of the square root of 2, then the mantissa is cleared.
    """
    bits = steps.abs().clamp_(max=1.0).float().view(torch.int32)
    powers = bits.add(_CARRY_FROM_SQRT2).bitwise_and_(_EXPONENT_BITS).view(torch.float32)
    powers = torch.where(powers < 2.0 ** (1 - top_code), 0.0, powers).mul_(torch.sign(steps))
    return torch.where(torch.isnan(steps), steps, powers)
