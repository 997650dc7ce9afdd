"""Ranges that leave out the tails: by share, by squared error, by divergence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.quantize.fake import fake_quantize
from sensitivity.quantize.scales import params_from_range
from sensitivity.records import QuantSpec

MSE_CANDIDATES = 100
_ALMOST_NOTHING = 1e-4  # counts given to an empty last bin, where all that was clipped would else diverge infinitely


def percentile_range(rows: Tensor, percentile: float, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The range that holds a share of each row's values, exactly (``numpy.percentile``, linear).

    Args:
        rows: Float (R, L).
        percentile: Share of values inside the range, in percent. Symmetric: of the absolute values. Otherwise half of
            the rest is left out at either end.
        symmetric: Whether the range is symmetric about zero.

    Returns:
        Lower and upper bounds, each (R,), never beyond the row's own extremes.
    """
    outside = 1.0 - percentile / 100.0
    if symmetric:
        bound = _quantile(rows.abs(), 1.0 - outside)
        return torch.maximum(-bound, rows.amin(1)), torch.minimum(bound, rows.amax(1))
    return _quantile(rows, outside / 2), _quantile(rows, 1.0 - outside / 2)


def _quantile(rows: Tensor, share: float) -> Tensor:
    """As ``torch.quantile``, which refuses more than 16 million elements."""
    ordered = rows.sort(dim=1).values
    rank = share * (rows.shape[1] - 1)
    lower, upper = ordered[:, int(rank)], ordered[:, min(int(rank) + 1, rows.shape[1] - 1)]
    return torch.lerp(lower, upper, rank - int(rank))


def mse_range(
    rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, *, narrow: bool, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The shrunken range with the smallest squared error of quantization, for each row by itself.

    Tried are ``MSE_CANDIDATES`` ranges, from (low, high) down to a hundredth of it in equal steps; the wider one wins
    a tie.

    Args:
        rows: Float (R, L).
        low: Smallest value of each row, (R,).
        high: Largest value of each row, (R,).
        spec: Format and symmetry.
        narrow: See ``params_from_range``.
        counts: How often each value occurs, (R, L); None for once.

    Returns:
        Lower and upper bounds, each (R,).

    Source:
        Choukroun et al. 2019, "Low-bit quantization of neural networks for efficient inference" (OMSE, eq. 4), over
        the grid of FQ-ViT (Lin et al. 2022), here without its lower end at 0.11.
    """
    row_spec = replace(spec, granularity="per-channel", axis=0, group_size=None)
    best_error = torch.full_like(low, torch.inf, dtype=torch.float64)
    best_factor = torch.ones_like(low)
    for candidate in range(MSE_CANDIDATES):
        factor = 1.0 - candidate / MSE_CANDIDATES
        params = params_from_range(low * factor, high * factor, row_spec, narrow=narrow)
        squared = fake_quantize(rows, params).sub_(rows).square_()
        error = (squared if counts is None else squared.mul_(counts)).sum(1, dtype=torch.float64)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_factor = torch.where(better, factor, best_factor)
    return low * best_factor, high * best_factor


def entropy_bins(counts: NDArray[np.int64], levels: int) -> int:
    """How many of the first bins to keep so that quantizing loses least information.

    For every number of bins kept from ``levels`` on: the kept counts with the rest added to the last bin are the
    reference; the kept counts merged into ``levels`` groups and spread evenly over the occupied bins of each group are
    the candidate. The number with the smallest Kullback-Leibler divergence is returned, the largest of equals. An empty
    last bin has 1e-4 counts in the candidate, as in MXNet and ONNX Runtime, or no range could end in the empty stretch
    before a lone outlier.

    The first bin takes the count of the second: exact zeros, half of all values after a ReLU, are not changed by
    quantization and would outweigh all others.

    Args:
        counts: Histogram of absolute values, the first bin starting at 0; int64 (B,).
        levels: Number of levels of the quantized absolute values: 128 for int8.

    Returns:
        Number of bins in [min(levels, B), B].

    Source:
        Migacz 2017, "8-bit inference with TensorRT", GTC, pseudocode of the calibration; the treatment of the first
        bin is that of NVIDIA's pytorch-quantization 2.1 (``calib/histogram.py``).
    """
    if len(counts) <= levels:
        return len(counts)
    counts = counts.copy()
    counts[0] = counts[1]
    if not counts.any():
        return len(counts)
    candidates = range(levels, len(counts) + 1)
    divergences = np.array([_divergence(counts, kept_bins, levels) for kept_bins in candidates])
    return len(counts) - int(np.argmin(divergences[::-1]))


def _divergence(counts: NDArray[np.int64], kept_bins: int, levels: int) -> float:
    """Kullback-Leibler divergence of the quantized histogram from the clipped one."""
    inside = counts[:kept_bins].astype(np.float64)
    reference = inside.copy()
    reference[-1] += counts[kept_bins:].sum()
    starts = -(-np.arange(levels) * kept_bins // levels)
    occupied = inside > 0
    group_size = np.diff(np.append(starts, kept_bins))
    spread = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(occupied.astype(np.int64), starts), 1)
    candidate = np.where(occupied, np.repeat(spread, group_size), _ALMOST_NOTHING)
    compared = reference > 0
    p, q = reference[compared] / reference.sum(), candidate[compared] / candidate[compared].sum()
    return float(np.sum(p * np.log(p / q)))
