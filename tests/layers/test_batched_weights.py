"""Weights of several matrices, one for each group, which share their scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv

GROUPS, READ, WRITTEN = 3, 8, 5
PRODUCTS: dict[str, Any] = {
    "bmm": lambda x, weight: torch.bmm(x.transpose(0, 1), weight).transpose(0, 1),
    "einsum": lambda x, weight: torch.einsum("bgi,gio->bgo", x, weight),
    "einsum, rows": lambda x, weight: torch.einsum("bgi,goi->bgo", x, weight.transpose(1, 2).contiguous()),
    "matmul": lambda x, weight: (x.unsqueeze(2) @ weight).squeeze(2),
    "of one part": lambda x, weight: torch.bmm(x.transpose(0, 1)[:2], weight[:2]).transpose(0, 1),
}
SINGLE: dict[str, Any] = {
    "matmul": lambda x, weight: x @ weight[0],
    "expanded": lambda x, weight: torch.bmm(x.transpose(0, 1), weight.sum(0).expand(GROUPS, READ, WRITTEN)),
    "einsum": lambda x, weight: torch.einsum("bgi,io->bgo", x, weight[0]),
}


class Net(nn.Module):
    def __init__(self, multiply: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.multiply = nn.Linear(6, GROUPS * READ), multiply
        sizes = torch.tensor([0.01, 1.0, 100.0]).reshape(GROUPS, 1, 1)
        self.weight = nn.Parameter(torch.randn(GROUPS, READ, WRITTEN) * sizes)

    def forward(self, x: Tensor) -> Any:
        return self.multiply(self.first(x).unflatten(1, (GROUPS, READ)), self.weight)


def flagged(multiply: Any) -> list[bool]:
    wrapped = sv.wrap(Net(multiply).eval(), torch.randn(4, 6))
    assert len(wrapped.layers) == 2
    return ["batched-weight" in layer.flags for layer in wrapped.layers]


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_weight_of_several_matrices_is_told_in_the_table(name: str) -> None:
    assert flagged(PRODUCTS[name]) == [False, True]


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_matrix_is_no_batched_weight(name: str) -> None:
    assert flagged(SINGLE[name]) == [False, False]


def test_the_groups_of_a_batched_weight_share_the_scale_of_each_channel() -> None:
    """As in a Q/DQ graph: the smallest group is lost, which is why the table tells it."""
    net = Net(PRODUCTS["bmm"]).eval()
    wrapped = sv.wrap(net, torch.randn(4, 6))
    [name] = wrapped.layers.select("@batched-weight").names
    original, seen = net.weight.detach(), []
    net.first.register_forward_hook(lambda *_: seen.append(net.weight.detach().clone()))
    with wrapped.quantized(sv.Scheme.only(name, sv.INT8_WEIGHTS)), torch.no_grad():
        net(torch.randn(4, 6))
    scale = original.abs().amax((0, 1)) / 127
    torch.testing.assert_close(seen[0] / scale, (original / scale).round(), rtol=1e-5, atol=1e-4)
    assert not seen[0][0].any()
    assert seen[0][2].any()
