"""The demo's network with some channels much larger than others, so that int8 breaks it as it breaks real networks.

The trained network is so even that int8 costs it nothing. In networks that break, a few channels are tens or hundreds
of times larger than the rest: one scale for the whole tensor fits those few, and the others share a handful of codes.
Such channels are made here, in two places:

- In the sum that the blocks of a stage add to. All that writes a channel is linear, so the writers are multiplied, the
  readers divided, and the network computes what it did. ``equalized()`` can undo this.
- Between two convolutions of a block. A GELU stands there, which does not scale: ``gelu(g x) / g`` goes to ``relu(x)``
  as g grows. The channels that this changes least are taken. No scaling undoes this in a quantized network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensitivity.perturb.hooks import hooked
from sensitivity.zoo.efficientvit import ImageEncoder
from sensitivity.zoo.efficientvit_blocks import ConvLayer, Residual

CHANNELS = 2
"""Of each tensor are made larger."""

STREAMS: Mapping[int, float] = {2: 100.0, 3: 100.0}
"""By stage: how much larger, in the sum of its blocks."""

BETWEEN: Mapping[tuple[str, str, str], float] = {
    ("backbone.stages.1.op_list.0.main", "spatial_conv", "point_conv"): 150.0,
    ("backbone.stages.3.op_list.0.main", "inverted_conv", "depth_conv"): 400.0,
    ("backbone.stages.3.op_list.1.main", "inverted_conv", "depth_conv"): 200.0,
    ("backbone.stages.4.op_list.0.main", "inverted_conv", "depth_conv"): 64.0,
    ("backbone.stages.4.op_list.0.main", "depth_conv", "point_conv"): 100.0,
    ("neck.middle.op_list.1.main", "spatial_conv", "point_conv"): 150.0,
}
"""By block, the convolution that writes and the one that reads: how much larger, after the GELU between them."""


@torch.no_grad()
def make_uneven(encoder: ImageEncoder, images: Tensor) -> None:
    """Make channels of the tiny EfficientViT-SAM's encoder uneven, in place; what it computes hardly changes.

    Args:
        encoder: Trained.
        images: ``(N, 3, S, S)``, preprocessed; they tell which channels change least.
    """
    for stage, gain in STREAMS.items():
        for block in _blocks(encoder, stage):
            _scale_outputs(_layers(block)[-1], range(CHANNELS), gain)
        for reader in _readers(encoder, stage):
            _scale_inputs(reader, range(CHANNELS), 1 / gain)
    pairs = [
        (encoder.get_submodule(f"{block}.{writer}"), encoder.get_submodule(f"{block}.{reader}"), gain)
        for (block, writer, reader), gain in BETWEEN.items()
    ]
    before_gelu = _before_gelu(encoder, [writer for writer, _, _ in pairs], images)
    for (writer, reader, gain), values in zip(pairs, before_gelu, strict=True):
        channels = _least_changed(values, reader)
        _scale_outputs(writer, channels, gain)
        _scale_inputs(reader, channels, 1 / gain)


def _blocks(encoder: ImageEncoder, stage: int) -> list[nn.Module]:
    added = encoder.backbone.stages[stage].get_submodule("op_list").children()
    return [block.main for block in added if isinstance(block, Residual)]


def _layers(block: nn.Module) -> list[nn.Module]:
    return [layer for layer in block.children() if isinstance(layer, ConvLayer)]


def _readers(encoder: ImageEncoder, stage: int) -> Iterator[nn.Module]:
    """What reads the sum of a stage's blocks: the stage's later blocks, the next stage, and the neck."""
    for block in [*_blocks(encoder, stage)[1:], _blocks(encoder, stage + 1)[0]]:
        yield _layers(block)[0]
    in_neck = encoder.neck.input_names.index(f"stage{stage}")
    yield encoder.neck.input_ops[in_neck].get_submodule("op_list.0")


def _before_gelu(encoder: nn.Module, writers: Iterable[nn.Module], images: Tensor) -> list[Tensor]:
    """What the GELU of each layer is given, ``(N, C, H, W)``."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(gelu: nn.Module, args: tuple[Any, ...], _: dict[str, Any]) -> None:
        seen[gelu] = args[0].clone()

    gelus = [writer.get_submodule("act") for writer in writers]
    with hooked(before=[(gelu, keep) for gelu in gelus]):
        encoder(images)
    return [seen[gelu] for gelu in gelus]


def _least_changed(values: Tensor, reader: nn.Module) -> list[int]:
    """Channels that are not small, and of which the reader would notice least that a GELU became a ReLU."""
    weight = reader.get_parameter("conv.weight").abs()
    depthwise = weight.shape[1] == 1
    noticed = weight.sum((1, 2, 3)) if depthwise else weight.sum((0, 2, 3))
    error = (F.gelu(values, approximate="tanh") - F.relu(values)).square().mean((0, 2, 3)).sqrt()
    largest = F.relu(values).amax((0, 2, 3))
    cost = torch.where(largest > largest.median(), error * noticed, torch.inf)
    return cost.argsort()[:CHANNELS].tolist()


def _scale_outputs(layer: nn.Module, channels: Iterable[int], gain: float) -> None:
    """Multiply what a convolution and its batch norm, if it has one, write to channels."""
    parts = dict(layer.named_children())
    for tensor in parts.get("norm", parts["conv"]).parameters():
        tensor[list(channels)] *= gain


def _scale_inputs(layer: nn.Module, channels: Iterable[int], gain: float) -> None:
    """Multiply the weights with which a convolution reads channels."""
    weight = layer.get_parameter("conv.weight")
    depthwise = weight.shape[1] == 1
    (weight if depthwise else weight.transpose(0, 1))[list(channels)] *= gain
