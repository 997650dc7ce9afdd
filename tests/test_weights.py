"""The hash of a model's weights."""

from __future__ import annotations

import hashlib

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


def test_the_digest_is_that_of_every_name_shape_type_and_byte_in_order_of_names() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1).to(torch.bfloat16), nn.BatchNorm2d(3), nn.Linear(3, 4).double())
    model[2].weight = nn.Parameter(torch.arange(12.0).reshape(3, 4).t())  # not contiguous
    expected = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        expected.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        expected.update(bytes(tensor.contiguous().flatten().view(torch.uint8).tolist()))
    assert weights_digest(model) == expected.hexdigest()[:32]
