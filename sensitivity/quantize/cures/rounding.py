"""Rounding of weights that compensates its own error: what one weight loses, those not yet rounded take over."""

from __future__ import annotations

import torch
from torch import Tensor

from sensitivity.quantize.cures.patches import Geometry, filters_of, weight_of
from sensitivity.quantize.cures.statistics import InputStatistics
from sensitivity.quantize.fake import quantize
from sensitivity.quantize.formats import tensor_type
from sensitivity.quantize.scales import QuantParams

DAMPING = 0.01
"""Share of the mean second moment that is added to each: directions that the images do not show cost something too."""


@torch.no_grad()
def compensated_codes(
    weight: Tensor,
    params: QuantParams,
    inputs: InputStatistics,
    geometry: Geometry,
    *,
    centred: bool = False,
    keep_zeros: bool = False,
) -> Tensor:
    """Codes of a weight, rounded one after the other so that the layer's output keeps the smallest squared error.

    With the second moments H of the input's patches, the squared error of a filter is ``e H e``, ``e`` being the change
    of its weights. The weights of all filters are rounded in the order of falling moments; after each, those not yet
    rounded are moved to where they make up best for its error. A filter that nearest rounding serves better, by the
    same measure, is rounded to nearest.

    Args:
        weight: Float; not changed.
        params: Scales, already chosen; they are not changed.
        inputs: Statistics of the layer's own float inputs, second moments among them.
        geometry: How the layer slides over them.
        centred: Leave out the error of the mean, which a corrected bias takes away.
        keep_zeros: Leave weights that are zero at zero: those that were pruned.

    Returns:
        Codes as ``quantize`` gives them.

    Source:
        Frantar et al. 2022, "GPTQ: accurate post-training quantization for generative pre-trained transformers",
        algorithm 1 without its lazy batches, with ``act-order``; convolutions as in Frantar & Alistarh 2022, "Optimal
        brain compression".
    """
    filters = filters_of(weight.double(), geometry)
    scale, zero = (
        filters_of(params.spread(values, weight.shape).expand(weight.shape).double(), geometry)
        for values in (params.scale, params.zero_point)
    )
    low, high = params.qmin - zero, params.qmax - zero
    nearest = filters_of(quantize(weight, params).double(), geometry) - zero
    steps, start = nearest.clone(), 0
    for moments in _moments(inputs, weight.device, centred=centred):
        block = (..., slice(start, start + moments.shape[1]))
        start += moments.shape[1]
        own, step = filters[block], scale[block]
        compensated = _compensated(own, step, low[block], high[block], moments, frozen=own == 0 if keep_zeros else None)
        was, now = (_squared_error(candidate * step - own, moments) for candidate in (nearest[block], compensated))
        steps[block] = torch.where((now < was)[..., None], compensated, nearest[block])
    codes = weight_of(steps + zero, weight.shape, geometry)
    return codes.round().to(tensor_type(params.format))


def _moments(inputs: InputStatistics, device: torch.device, *, centred: bool) -> list[Tensor]:
    blocks = [torch.from_numpy(block).to(device).double() for block in inputs.moments]
    if not centred or inputs.moment_mean is None:
        return blocks
    means = torch.split(torch.from_numpy(inputs.moment_mean).to(device), [block.shape[1] for block in blocks], 1)
    return [block - mean[:, :, None] * mean[:, None, :] for block, mean in zip(blocks, means, strict=True)]


def _to_steps(values: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (values / scale).round().clamp(low, high)


def _squared_error(change: Tensor, moments: Tensor) -> Tensor:
    """(G, filters)."""
    return ((change @ moments) * change).sum(-1)


def _compensated(
    filters: Tensor, scale: Tensor, low: Tensor, high: Tensor, moments: Tensor, *, frozen: Tensor | None
) -> Tensor:
    """Steps (G, filters, B) of one block."""
    order = moments.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    rows = order[:, None, :].expand_as(filters)
    left, steps_scale, lowest, highest = (values.gather(2, rows) for values in (filters, scale, low, high))
    held = None if frozen is None else frozen.gather(2, rows)
    factor = _inverse_factor(moments, order)
    steps = torch.empty_like(left)
    for place in range(left.shape[2]):
        column = slice(place, place + 1)
        step = _to_steps(left[..., column], steps_scale[..., column], lowest[..., column], highest[..., column])
        if held is not None:
            step = torch.where(held[..., column], 0.0, step)
        error = (left[..., column] - step * steps_scale[..., column]) / factor[:, column, column]
        left[..., place + 1 :] -= error * factor[:, column, place + 1 :]
        steps[..., column] = step
    return torch.empty_like(steps).scatter_(2, rows, steps)


def _inverse_factor(moments: Tensor, order: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped moments, in an order of rounding."""
    ordered = moments.gather(1, order[:, :, None].expand_as(moments))
    ordered = ordered.gather(2, order[:, None, :].expand_as(moments))
    damping = DAMPING * ordered.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float32).tiny)
    ordered = ordered + damping[:, None, None] * torch.eye(ordered.shape[1], dtype=ordered.dtype, device=ordered.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
