"""Scales of channels, by hand and by what has to hold once they are found."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from sensitivity.quantize.cures.equalize import LARGEST_SCALE, Sizes, equalizing_scales


def numbers(*values: int) -> Tensor:
    return torch.tensor(values)


def test_one_channel_between_two_layers_gets_the_root_of_the_quotient_of_its_sizes() -> None:
    # channels: 0 the input, 1 and 2 between the layers, 3 the output
    first = Sizes(torch.tensor([[8.0], [0.5]], dtype=torch.float64), numbers(1, 2), numbers(0))
    second = Sizes(torch.tensor([[2.0, 8.0]], dtype=torch.float64), numbers(3), numbers(1, 2))
    scales = equalizing_scales([first, second], torch.tensor([True, False, False, True]))
    assert scales.tolist() == [1.0, 2.0, 0.25, 1.0]  # sqrt(8 / 2) and sqrt(0.5 / 8)


def test_fixed_channels_and_those_that_nobody_reads_or_writes_keep_their_scale() -> None:
    first = Sizes(torch.tensor([[8.0], [0.0], [8.0]], dtype=torch.float64), numbers(1, 2, 3), numbers(0))
    second = Sizes(torch.tensor([[2.0, 8.0, 2.0]], dtype=torch.float64), numbers(4), numbers(1, 2, 3))
    fixed = torch.tensor([False, True, False, False, False])
    assert equalizing_scales([first, second], fixed).tolist() == [1.0, 1.0, 1.0, 2.0, 1.0]


def test_a_long_chain_ends_with_every_channel_as_large_where_it_is_written_as_where_it_is_read() -> None:
    torch.manual_seed(0)
    layers = []
    for place in range(8):
        scale = torch.exp(2 * torch.randn(4, 1))
        size = torch.diag(torch.rand(4) + 0.1) if place % 2 else torch.rand(4, 4) + 0.1
        read = torch.arange(4 * place, 4 * place + 4)
        layers.append(Sizes((size * scale).double(), read + 4, read))
    fixed = torch.zeros(36, dtype=torch.bool)
    fixed[:4] = fixed[32:] = True
    scales = equalizing_scales(layers, fixed)
    for writer, reader in itertools.pairwise(layers):
        written = (writer.size / scales[writer.written][:, None] * scales[writer.read]).amax(1)
        read = (reader.size / scales[reader.written][:, None] * scales[reader.read]).amax(0)
        torch.testing.assert_close(written, read, rtol=0.02, atol=0.0)


def test_nearly_dead_channels_do_not_overflow() -> None:
    first = Sizes(torch.tensor([[1e-30]], dtype=torch.float64), numbers(1), numbers(0))
    second = Sizes(torch.tensor([[1.0]], dtype=torch.float64), numbers(2), numbers(1))
    scales = equalizing_scales([first, second], torch.tensor([True, False, True]))
    assert scales[1] == 1 / LARGEST_SCALE
