"""Quantize a weight: its range is known at once, so nothing needs calibration."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sensitivity.contracts import RangesRows
from sensitivity.errors import RecipeError
from sensitivity.quantize.fake import fake_quantize, quantize
from sensitivity.quantize.observers import make_observer
from sensitivity.quantize.scales import QuantParams, check_range, find_axis, params_from_range
from sensitivity.records import QuantSpec
from sensitivity.records.recipes.recipe import weights_refusal


def quantize_weight(weight: Tensor, spec: QuantSpec, *, output_axis: int = 0, narrow: bool = True) -> Tensor:
    """The weight as it is after quantizing and dequantizing.

    Args:
        weight: Floating-point tensor of any shape; not changed.
        spec: How to quantize it.
        output_axis: Axis of the output channels, for where ``spec.axis`` is None: 0, or 1 for a transposed convolution.
            In a grouped transposed convolution, (in, out / groups, ...), channels at the same place of their groups
            share a scale, as they do in ONNX.
        narrow: Leave out the lowest code of a symmetric signed integer format, as engines do.

    Returns:
        New tensor of the same shape, type, device and memory format.

    Raises:
        CalibrationError: If the weight holds NaN or infinite values.
        RecipeError: If the spec does not fit the weight.
    """
    return fake_quantize(weight, weight_params(weight, spec, output_axis=output_axis, narrow=narrow))


def weight_codes(
    weight: Tensor, spec: QuantSpec, *, output_axis: int = 0, narrow: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale and zero point, for an exporter; arguments and errors as in ``quantize_weight``.

    Returns:
        Codes of the weight's shape in the format's own tensor type; float32 scale and int32 zero point, () per tensor,
        (C,) per channel, (C, G) per group. Dequantized they equal ``quantize_weight`` bit for bit in float32.
    """
    params = weight_params(weight, spec, output_axis=output_axis, narrow=narrow)
    return quantize(weight, params), params.scale, params.zero_point


@torch.no_grad()
def weight_params(weight: Tensor, spec: QuantSpec, *, output_axis: int = 0, narrow: bool = True) -> QuantParams:
    """Scale and zero point of a weight; arguments and errors as in ``quantize_weight``.

    Every channel or group is observed by itself and exactly. ``ema`` is ``minmax`` here, the average of one tensor. A
    short last group counts as filled up with zeros.
    """
    if refusal := weights_refusal(spec):
        raise RecipeError(refusal)
    if weight.numel() == 0:
        raise RecipeError(f"a weight of shape {tuple(weight.shape)} has no elements to quantize. Leave this layer out.")
    axis = find_axis(output_axis if spec.axis is None else spec.axis, weight.dim())
    rows = _rows(weight.detach(), spec, axis)
    flat = rows.reshape(-1, rows.shape[-1]).float()
    check_range(flat.amin(1), flat.amax(1))
    low, high = _row_ranges(flat, spec, narrow=narrow)
    shape = rows.shape[:-1]
    return params_from_range(low.reshape(shape), high.reshape(shape), spec, axis=axis, narrow=narrow)


def _rows(weight: Tensor, spec: QuantSpec, axis: int) -> Tensor:
    """The weight with all elements that share a scale along the last axis: (L,), (C, L) or (C, G, L)."""
    if spec.granularity == "per-tensor":
        return weight.reshape(-1)
    channels = weight.movedim(axis, 0).reshape(weight.shape[axis], -1)
    if spec.group_size is None:
        return channels
    missing = -channels.shape[1] % spec.group_size
    return F.pad(channels, (0, missing)).reshape(len(channels), -1, spec.group_size)


def _row_ranges(rows: Tensor, spec: QuantSpec, *, narrow: bool) -> tuple[Tensor, Tensor]:
    """The range of each row by itself, (R,): of all rows at once where the observer can, else row by row."""
    row_spec = replace(spec, granularity="per-tensor", axis=None, group_size=None)
    observer = make_observer(row_spec)
    if isinstance(observer, RangesRows):
        return observer.rows_range(rows, narrow=narrow)
    bounds = [_row_range(row, row_spec) for row in rows]
    return torch.stack([low for low, _ in bounds]), torch.stack([high for _, high in bounds])


def _row_range(row: Tensor, row_spec: QuantSpec) -> tuple[Tensor, Tensor]:
    observer = make_observer(row_spec)
    observer.observe(row[None])  # observers take the first axis for images: a row is one image
    return observer.range()
