"""How far two tensors are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sensitivity.records.decibels import decibels


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
        expected, actual = _double(reference), _double(other)
        both = torch.isfinite(expected) & torch.isfinite(actual)
        if not torch.equal(expected[~both].nan_to_num(nan=1.0), actual[~both].nan_to_num(nan=1.0)):
            return -math.inf
        signal += float(expected[both].square().sum())
        noise += float((expected[both] - actual[both]).square().sum())
    return decibels(signal, noise)


def _double(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().cpu().double()
