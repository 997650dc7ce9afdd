"""Scales that make the channels between layers alike, found from the weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_SWEEPS = 100
UNDAMPED_SWEEPS = 10
"""After these only half of each step is taken: what channels do to each other's largest weights may swing for ever."""

CONVERGED = 1e-3
"""Largest change of the logarithm of a scale at which the search ends."""

LARGEST_SCALE = 1e4
"""Channels that nobody writes, or nobody reads, have no scale of their own; nearly dead ones are kept from overflow."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """How large the weights of one layer are, channel by channel.

    Attributes:
        size: Largest absolute weight between each channel written and each channel read, float64 (out, in); zero where
            they are not connected. For what reads nothing, (out, 1).
        written: Number of each channel written, (out,).
        read: Number of each channel read, (in,); None for what reads nothing.
    """

    size: Tensor
    written: Tensor
    read: Tensor | None


@torch.no_grad()
def equalizing_scales(layers: Sequence[Sizes], fixed: Tensor) -> Tensor:
    """What each channel is divided by, so that it is as large where it is written as where it is read.

    A channel's size where it is written is that of the largest weight that writes it, over all layers that do; where
    it is read likewise. The scale of a channel is the square root of the quotient of the two; those of all channels
    are found together, since a layer is the reader of one and the writer of another.

    Args:
        layers: All layers that write or read the channels.
        fixed: Whether each channel keeps its scale of one, bool (channels,).

    Returns:
        float64 (channels,), positive.

    Source:
        Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1, eq.
        11; several writers and readers of one channel count as the largest of them.
    """
    scales = torch.ones(len(fixed), dtype=torch.float64, device=fixed.device)
    for sweep in range(MOST_SWEEPS):
        writes, reads = torch.zeros_like(scales), torch.zeros_like(scales)
        for layer in layers:
            size = layer.size / scales[layer.written][:, None]
            if layer.read is not None:
                size = size * scales[layer.read]
                reads.scatter_reduce_(0, layer.read, size.amax(0), "amax")
            writes.scatter_reduce_(0, layer.written, size.amax(1), "amax")
        alive = (writes > 0) & (reads > 0) & ~fixed
        change = torch.where(alive, (writes / reads).sqrt(), 1.0).nan_to_num(nan=1.0, posinf=1.0)
        change = change if sweep < UNDAMPED_SWEEPS else change.sqrt()
        before, scales = scales, (scales * change).clamp(1 / LARGEST_SCALE, LARGEST_SCALE)
        if float((scales / before).log().abs().max()) < CONVERGED:
            break
    return scales
