"""Layers that read the same tensor move together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.search.groups import groups_of


class Branches(nn.Module):
    """Two branches of one tensor, one of them through a view, and two layers that read tensors of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        out: Tensor = self.last(self.left(x.view_as(x)) + self.right(x))
        return out


class Overwritten(Branches):
    """The second branch reads the tensor after it was changed in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        left = self.left(x)
        out: Tensor = self.last(left + self.right(x.mul_(2.0)))
        return out


def names(model: nn.Module) -> list[list[str]]:
    example = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    wrapped = sv.wrap(model.eval(), example)
    return [[layer.module for layer in group] for group in groups_of(wrapped.model, wrapped.layers, example)]


def test_branches_of_one_tensor_are_one_group() -> None:
    assert names(Branches()) == [["stem"], ["left", "right"], ["last"]]


def test_a_tensor_that_was_changed_in_between_is_another_one() -> None:
    assert names(Overwritten()) == [["stem"], ["left"], ["right"], ["last"]]


def test_looking_leaves_no_hook() -> None:
    model = Branches()
    names(model)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
