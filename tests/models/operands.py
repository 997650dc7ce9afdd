"""Modules that multiply by a weight in every awkward way, and what each computes when its operands are rounded."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]

TOKENS, READ, WRITTEN = 5, 6, 8

PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": F.linear,
    "right": lambda x, weight: x @ weight.T,
    "left": lambda x, weight: (weight @ x.transpose(-1, -2)).transpose(-1, -2),
    "addmm": lambda x, weight: torch.addmm(torch.ones(WRITTEN), x.flatten(0, 1), weight.T).unflatten(0, x.shape[:2]),
    "einsum": lambda x, weight: torch.einsum("oi,bni->bno", weight, x),
    "conv": lambda x, weight: F.conv1d(x.transpose(1, 2), weight.unsqueeze(-1)).transpose(1, 2),
}
"""What multiplies a tensor of the shape (batch, TOKENS, READ) by a weight of the shape (WRITTEN, READ)."""

STORAGES = ("rows", "columns", "part", "computed", "of a child")
CALLS = ("other first", "by keyword", "both")


class Awkward(nn.Module):
    """A product of one argument, and another argument that is added, or multiplied by the same weight as well.

    Args:
        product: Key of ``PRODUCTS``.
        storage: How the weight is held; see ``STORAGES``.
        call: How the arguments are given; ``both`` multiplies both by the weight.
    """

    def __init__(self, product: str, storage: str, call: str) -> None:
        super().__init__()
        self.product, self.storage, self.call = product, storage, call
        if storage == "of a child":
            self.child = nn.Linear(READ, WRITTEN)
        else:
            shapes = {"columns": (READ, WRITTEN), "part": (2 * WRITTEN, READ)}
            self.weight = nn.Parameter(torch.randn(shapes.get(storage, (WRITTEN, READ))) * 0.3)

    def multiplied(self) -> Tensor:
        """The weight of the shape (WRITTEN, READ)."""
        if self.storage == "of a child":
            return self.child.weight
        if self.storage == "columns":
            return self.weight.T
        if self.storage == "part":
            return self.weight[WRITTEN:]
        if self.storage == "computed":
            return 2 * self.weight / self.weight.norm(dim=1, keepdim=True)
        return self.weight

    def compute(self, other: Tensor, x: Tensor, x_changed: Change, other_changed: Change, weight: Tensor) -> Tensor:
        """What the module computes, with its operands changed."""
        multiply = PRODUCTS[self.product]
        if self.call == "both":
            return multiply(x_changed(x), weight) + multiply(other_changed(other), weight)
        return multiply(x_changed(x), weight) + other.mean(-1, keepdim=True) + x.mean(-1, keepdim=True)

    def forward(self, other: Tensor, x: Tensor) -> Tensor:
        same: Change = lambda tensor: tensor  # noqa: E731
        return self.compute(other, x, same, same, self.multiplied())


class Row(nn.Module):
    """Every combination of a product, a storage and a call, side by side: each is an output."""

    def __init__(self) -> None:
        super().__init__()
        pairs = list(itertools.product(PRODUCTS, STORAGES))
        calls = itertools.cycle(CALLS)
        self.all = nn.ModuleList(Awkward(product, storage, next(calls)) for product, storage in pairs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        other = torch.flip(x, (1,)) * 7
        return tuple(
            module(x=x, other=other) if module.call == "by keyword" else module(other, x) for module in self.all
        )
