"""The hash of a model's weights."""

from __future__ import annotations

import torch
from torch import nn

from sensitivity.weights import weights_digest


def net(scale: float = 1.0, entry: float = 2.0, shape: int = 3) -> nn.Module:
    """With a sparse buffer, and one without bytes."""
    torch.manual_seed(0)
    made = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        made.weight.mul_(scale)
    made.register_buffer("sparse", (torch.eye(4) * entry).to_sparse())
    made.register_buffer("shapeless", torch.empty(shape, device="meta"))
    return made


def test_any_change_of_a_weight_or_buffer_changes_it() -> None:
    digests = [weights_digest(net) for net in (net(), net(scale=1.5), net(entry=3.0), net(shape=4))]
    assert len(set(digests)) == 4
    assert weights_digest(net()) == digests[0]


def test_the_order_in_memory_does_not_count() -> None:
    last = net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert weights_digest(last) == weights_digest(net())
