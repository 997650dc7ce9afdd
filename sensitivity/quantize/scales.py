"""Scale and zero point from the range of values to be held."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.records import QuantSpec
from sensitivity.records.recipes.formats import NumberFormat, find_format

MIN_SCALE = 2.0**-63
"""Smallest scale given. An all-zero channel gets it, and all its codes are 0. The product of two such scales, which
engines form for the accumulator, is still a normal float32 number."""


@dataclass(frozen=True, slots=True, eq=False)
class QuantParams:
    """All that is needed to quantize one tensor.

    Attributes:
        scale: Positive float32 tensor: () per tensor, (C,) per channel, (C, G) per group.
        zero_point: int32 tensor of the same shape; the code that stands for 0.
        format: Number format of the codes.
        qmin: Smallest code in use.
        qmax: Largest code in use.
        symmetric: Whether every zero point is 0.
        axis: Channel axis; None per tensor.
        group_size: Elements in a group along the flattened rest of a channel, the last group of a channel possibly
            shorter; None if not per group.
    """

    scale: Tensor
    zero_point: Tensor
    format: NumberFormat
    qmin: int
    qmax: int
    symmetric: bool
    axis: int | None = None
    group_size: int | None = None

    def to(self, device: torch.device | str) -> QuantParams:
        """The same parameters on another device."""
        return replace(self, scale=self.scale.to(device), zero_point=self.zero_point.to(device))

    def in_half(self) -> QuantParams:
        """The same parameters with scales that float16 can hold, rounded up, so that no value is cut off by it.

        The smallest scale is then 2**-24, and no scale may be above 65504.
        """
        exact = self.scale.cpu().numpy()
        nearest = exact.astype(np.float16)
        above = np.nextafter(nearest, np.float16(np.inf))  # torch has none for float16
        raised = np.where(nearest < exact, above, nearest).astype(np.float32)
        return replace(self, scale=torch.from_numpy(raised).to(self.scale.device))

    def spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        """``scale`` or ``zero_point`` in a shape that broadcasts against a tensor of this shape.

        Raises:
            RecipeError: If a tensor of this shape has other channels or groups than these parameters.
        """
        if self.axis is None:
            return values
        axis = find_axis(self.axis, len(shape))
        elements = shape.numel() // max(shape[axis], 1)
        groups = () if self.group_size is None else (-(-elements // self.group_size),)
        if tuple(values.shape) != (shape[axis], *groups):
            raise RecipeError(
                f"these parameters hold scales of shape {tuple(values.shape)}; a tensor of shape {tuple(shape)} needs "
                f"{(shape[axis], *groups)} along axis {axis}. Make them from the range of this very tensor."
            )
        if self.group_size is None:
            return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        other_sizes = [size for i, size in enumerate(shape) if i != axis]
        return (
            values.repeat_interleave(self.group_size, 1)[:, :elements]
            .reshape(shape[axis], *other_sizes)
            .movedim(0, axis)
        )


def find_axis(axis: int, dimensions: int) -> int:
    """The axis counted from the front.

    Raises:
        RecipeError: If a tensor of so many dimensions has no such axis.
    """
    if not -dimensions <= axis < dimensions:
        raise RecipeError(f"axis {axis} does not exist in a tensor of {dimensions} dimensions. Give a smaller one.")
    return axis % dimensions


def check_range(low: Tensor, high: Tensor) -> None:
    """Refuse a range that no scale can be made from.

    Raises:
        CalibrationError: If a bound is NaN or infinite, or a lower bound is above its upper one.
    """
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise CalibrationError(
            f"range [{float(low.min())}, {float(high.max())}] is not finite: the tensor holds NaN or infinite values. "
            "Check the model's weights and the images it was run on."
        )
    if bool((low > high).any()):
        raise CalibrationError(
            f"range upside down: lower bounds {low.tolist()} above upper bounds {high.tolist()}. Give low <= high."
        )


def params_from_range(
    low: Tensor, high: Tensor, spec: QuantSpec, *, axis: int = 1, narrow: bool = False
) -> QuantParams:
    """Scale and zero point that hold all values from ``low`` to ``high``.

    Zero is always included in the range, and always has a code of its own. Symmetric: scale = max(-low, high) / largest
    code. Affine: scale = (high - low) / (number of codes - 1), and the zero point is the nearest code. A constant or
    all-zero range needs no special case: the scale is at least ``MIN_SCALE``.

    Args:
        low: Smallest value, () per tensor, (C,) per channel, (C, G) per group.
        high: Largest value, same shape.
        spec: Format, granularity and symmetry.
        axis: Channel axis that is meant where ``spec.axis`` is None.
        narrow: Leave out the lowest code of a symmetric signed integer format: [-127, 127], what engines expect of
            weights. Activations use the full [-128, 127]. The largest absolute value has code 127 in both.

    Raises:
        CalibrationError: If the range is not finite or upside down.
        RecipeError: If the format has no negative codes, and there are negative values to hold.
    """
    number_format = find_format(spec.format)
    check_range(low, high)
    low, high = low.detach().double().clamp(max=0.0), high.detach().double().clamp(min=0.0)
    qmin, qmax = number_format.code_range(narrow=narrow and spec.symmetric)
    if spec.symmetric:
        scale = _symmetric_scale(low, high, number_format)
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
    else:
        scale, zero_point = _affine_scale(low, high, number_format)
    return QuantParams(
        scale,
        zero_point,
        number_format,
        qmin,
        qmax,
        spec.symmetric,
        axis=None if spec.granularity == "per-tensor" else axis if spec.axis is None else spec.axis,
        group_size=spec.group_size,
    )


def _as_scale(exact: Tensor) -> Tensor:
    return exact.clamp(min=MIN_SCALE).float()


def _symmetric_scale(low: Tensor, high: Tensor, number_format: NumberFormat) -> Tensor:
    if not number_format.is_signed and bool((low < 0).any()):
        raise RecipeError(
            f"symmetric {number_format.name} has no codes below zero, but the smallest value is {float(low.min()):g}. "
            "Use a signed format such as 'int8', or symmetric=False."
        )
    return _as_scale(torch.maximum(-low, high) / number_format.largest)


def _affine_scale(low: Tensor, high: Tensor, number_format: NumberFormat) -> tuple[Tensor, Tensor]:
    qmin, qmax = number_format.qmin, number_format.qmax
    scale = _as_scale((high - low) / (qmax - qmin))
    return scale, (qmin - torch.round(low / scale.double())).to(torch.int32)
