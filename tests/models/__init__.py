"""A zoo of small awkward models, each with facts about its layers that were written by hand."""

from __future__ import annotations

from . import attention, behaviour, branches, calls, followers, inverted, ownership, plain, residual, signatures
from .case import Case, ExpectedLayer, conv_norm_act

__all__ = ["CASES", "Case", "ExpectedLayer", "conv_norm_act"]

_FILES = (plain, followers, residual, inverted, branches, attention, signatures, ownership, calls, behaviour)

CASES: dict[str, Case] = {case.name: case for file in _FILES for case in file.CASES}
if len(CASES) != sum(len(file.CASES) for file in _FILES):
    raise ValueError("two cases of the zoo share a name: rename one of them")
