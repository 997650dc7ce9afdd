"""Yolo-Fastest 1.1 and 1.1-xl: 24 inverted residual blocks, a max-pool pyramid and two anchor heads.

Convolutions keep the index they have in the released darknet configuration, so a converted checkpoint loads with
``strict=True``. Each residual block ends in a projection without activation, whose output goes straight into the
add: the exit layers that quantization tends to break.

Source: repository dog-qiuqiu/Yolo-Fastest, configurations ``yolo-fastest-1.1`` and ``yolo-fastest-1.1-xl``.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

# One row a block: expanded channels, projected channels, stride of the depthwise convolution; for the xl width.
# The first table ends at stride 16, where the fine head looks; the second at stride 32.
Blocks = list[tuple[int, int, int]]
TO_STRIDE_16: Blocks = [
    *[(16, 8, 1)] * 2,
    (48, 16, 2),
    *[(64, 16, 1)] * 2,
    (64, 16, 2),
    *[(96, 16, 1)] * 2,
    (96, 32, 1),
    *[(192, 32, 1)] * 4,
    (192, 48, 2),
    *[(272, 48, 1)] * 4,
]
TO_STRIDE_32: Blocks = [(272, 96, 2), *[(448, 96, 1)] * 5]
STEM_CHANNELS = 16
NECK_CHANNELS = 96
OUTPUT_CHANNELS = 3 * (5 + 80)  # anchors x (box, objectness, classes)

# Indices of darknet's list, which also counts pools, routes, dropouts and shortcuts.
STEM, FIRST_BLOCK, NECK, COARSE_HEAD, FINE_HEAD = 0, 1, 115, 116, 125


class Block(NamedTuple):
    """Where an inverted residual block stands in the list of layers, and whether its input is added to its output."""

    expand: int
    residual: bool


class YoloFastest(nn.Module):
    """Detector with raw outputs at stride 32 and 16; boxes are made by ``decode.decode_yolo``.

    Args:
        xl: The wide variant (898,686 parameters); else every backbone width is halved (332,798).
    """

    def __init__(self, *, xl: bool) -> None:
        super().__init__()
        divisor = 1 if xl else 2
        self.layers = nn.ModuleDict()
        channels = STEM_CHANNELS // divisor
        self._add(STEM, _conv(3, channels, 3, stride=2))
        self.fine_blocks, index, fine_channels = self._add_blocks(TO_STRIDE_16, FIRST_BLOCK, channels, divisor)
        self.coarse_blocks, _, channels = self._add_blocks(TO_STRIDE_32, index, fine_channels, divisor)
        self._add(NECK, _conv(4 * channels, NECK_CHANNELS, 1))
        self._add_head(COARSE_HEAD, NECK_CHANNELS)
        self._add_head(FINE_HEAD, NECK_CHANNELS + fine_channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw heads of a batch.

        Args:
            images: (N, 3, H, W) float32 RGB in [0, 1], H and W multiples of 32 (320 in training).

        Returns:
            Coarse (N, 255, H/32, W/32) and fine (N, 255, H/16, W/16) float32, channels ordered anchor by anchor as
            ``tx, ty, tw, th, objectness, 80 classes``, all before sigmoid or exp.
        """
        fine = self._run_blocks(self.fine_blocks, self.layers[str(STEM)](images))
        coarse = self._run_blocks(self.coarse_blocks, fine)
        pools = [F.max_pool2d(coarse, side, stride=1, padding=side // 2) for side in (9, 5, 3)]
        neck = self.layers[str(NECK)](torch.cat([*pools, coarse], dim=1))
        merged = torch.cat([F.interpolate(neck, scale_factor=2, mode="nearest"), fine], dim=1)
        return self._run(range(COARSE_HEAD, COARSE_HEAD + 5), neck), self._run(range(FINE_HEAD, FINE_HEAD + 5), merged)

    def _run(self, indices: range, x: Tensor) -> Tensor:
        for index in indices:
            x = self.layers[str(index)](x)
        return x

    def _run_blocks(self, blocks: list[Block], x: Tensor) -> Tensor:
        for block in blocks:
            branch = self._run(range(block.expand, block.expand + 3), x)
            x = x + branch if block.residual else branch
        return x

    def _add(self, index: int, layer: nn.Module) -> None:
        self.layers[str(index)] = layer

    def _add_blocks(self, rows: Blocks, index: int, channels: int, divisor: int) -> tuple[list[Block], int, int]:
        """Adds the blocks of a table; returns them, the next free index and the channels they end with."""
        blocks = []
        for row_expanded, row_projected, stride in rows:
            expanded, projected = row_expanded // divisor, row_projected // divisor
            self._add(index, _conv(channels, expanded, 1))
            self._add(index + 1, _conv(expanded, expanded, 3, stride=stride, groups=expanded))
            self._add(index + 2, _conv(expanded, projected, 1, activation=False))
            residual = stride == 1 and channels == projected
            blocks.append(Block(index, residual))
            index += 5 if residual else 3  # darknet counts the block's dropout and shortcut too
            channels = projected
        return blocks, index, channels

    def _add_head(self, index: int, channels: int) -> None:
        for offset in (0, 2):
            self._add(index + offset, _conv(channels, channels, 5, groups=channels))
            self._add(index + offset + 1, _conv(channels, channels, 1, activation=False))
        output = nn.Conv2d(channels, OUTPUT_CHANNELS, 1)
        self._add(index + 4, nn.Sequential(OrderedDict(conv=output)))


def load(checkpoint: Path, *, xl: bool) -> YoloFastest:
    """The trained detector in eval mode, from a safetensors file with names such as ``layers.0.conv.weight``."""
    model = YoloFastest(xl=xl)
    model.load_state_dict(load_file(checkpoint), strict=True)
    return model.eval()


def _conv(
    inputs: int, outputs: int, side: int, *, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """Convolution and batch norm, with LeakyReLU unless the layer is linear."""
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, groups=groups, bias=False),
        bn=nn.BatchNorm2d(outputs),
    )
    if activation:
        layers["act"] = nn.LeakyReLU(0.1)
    return nn.Sequential(layers)
