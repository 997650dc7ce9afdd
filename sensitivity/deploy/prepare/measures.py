"""How far two tensors are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def sqnr_db(reference: Any, other: Any) -> float:
    """Signal to quantization noise: 10 log10(sum reference^2 / sum (reference - other)^2), in dB.

    Computed in float64. Equal tensors give infinity, also where the reference is zero; a zero reference that is not
    met gives minus infinity, and so does a value that is infinite or NaN in one of them only. The same infinity in
    both (a detector's masked score) counts for nothing.

    Args:
        reference: Tensor or array.
        other: Another one of the same shape.
    """
    return sqnr_of_all_db([reference], [other])


def sqnr_of_all_db(references: Sequence[Any], others: Sequence[Any]) -> float:
    """``sqnr_db`` over all elements of several tensors together.

    Args:
        references: Tensors or arrays.
        others: As many, of the same shapes.
    """
    signal = noise = 0.0
    for reference, other in zip(references, others, strict=True):
        wanted, given = _double(reference), _double(other)
        both = torch.isfinite(wanted) & torch.isfinite(given)
        if not torch.equal(wanted[~both].nan_to_num(nan=1.0), given[~both].nan_to_num(nan=1.0)):
            return -math.inf
        signal += float(wanted[both].square().sum())
        noise += float((wanted[both] - given[both]).square().sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def _double(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().cpu().double()
