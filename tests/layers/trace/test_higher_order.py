"""Operators of torch that take functions, such as ``torch.cond``: refused with what to do instead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import TracingError


class Branching(nn.Module):
    """One of two convolutions, by the sign of a sum."""

    def __init__(self, *, in_python: bool) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.in_python = in_python

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.in_python:
            return self.left(x) if x.sum() > 0 else self.right(x)
        return torch.cond(x.sum() > 0, lambda y: self.left(y), lambda y: self.right(y), (x,))


def test_a_forward_with_torch_cond_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        TracingError, match=r"Branching cannot be traced: .* operator 'cond'.* Write it in Python"
    ) as refused:
        sv.wrap(Branching(in_python=False).eval(), torch.ones(1, 3, 8, 8))
    assert "object at" not in str(refused.value)


def test_the_same_in_python_is_wrapped() -> None:
    wrapped = sv.wrap(Branching(in_python=True).eval(), torch.ones(1, 3, 8, 8))
    assert {layer.module for layer in wrapped.layers} in ({"stem", "left"}, {"stem", "right"})
