"""EfficientViT's large backbone and the neck that makes a SAM image encoder of it.

Attribute names are those of the published checkpoints, so that their state dicts load with ``strict=True``.

Source:
    Cai et al., *EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction*, ICCV 2023; Zhang et
    al., *EfficientViT-SAM*, 2024; the reference program is ``mit-han-lab/efficientvit``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sensitivity.zoo.efficientvit_blocks import (
    AttentionBlock,
    ConvLayer,
    FusedMBConv,
    LayerNorm2d,
    MBConv,
    ResBlock,
    Residual,
    at_least_float32,
)

BlockKind = Literal["res", "fmb", "mb", "att"]

DOWNSAMPLE_EXPANSION = 4
"""How much wider than its stage's other blocks the hidden layer of a downsampling block is."""


class Chain(nn.Module):
    """Blocks run one after the other, under the published name ``op_list``.

    Args:
        blocks: in execution order.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Feed ``x`` through all blocks."""
        for block in self.op_list:
            x = block(x)
        return x


class UpSample(nn.Module):
    """Bicubic resize to a fixed square; an input of that size passes unchanged.

    Args:
        size: side of the output in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = (size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, size, size)``."""
        if tuple(x.shape[-2:]) == self.size:
            return x
        resized = F.interpolate(at_least_float32(x), self.size, mode="bicubic", align_corners=False)
        return resized.to(x.dtype)


class Backbone(nn.Module):
    """EfficientViT-L: a chain of stages, each at half the resolution of the one before.

    Args:
        widths: channels of each stage.
        depths: blocks of each stage beyond its first, which halves the resolution.
        kinds: kind of those blocks in each stage.
        expansions: hidden channels by channels of the blocks in each stage ("res" has none: its entry is not used).
        head_channels: channels of an attention head.
        attention_kernel: side in pixels of the attention's aggregation.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        kinds: Sequence[BlockKind],
        expansions: Sequence[int],
        head_channels: int,
        attention_kernel: int,
    ) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.attention_kernel = attention_kernel
        stages = []
        in_channels = 3
        for index, (width, depth, kind, expansion) in enumerate(zip(widths, depths, kinds, expansions, strict=True)):
            first = (
                ConvLayer(in_channels, width, 3, stride=2, act=True)
                if index == 0
                else _downsampling_block(kind, in_channels, width, expansion=expansion * DOWNSAMPLE_EXPANSION)
            )
            stages.append(Chain([first, *(self._block(kind, width, expansion) for _ in range(depth))]))
            in_channels = width
        self.stages = nn.ModuleList(stages)

    def _block(self, kind: BlockKind, channels: int, expansion: int) -> nn.Module:
        match kind:
            case "res":
                return Residual(ResBlock(channels))
            case "fmb":
                return Residual(FusedMBConv(channels, channels, expansion=expansion))
            case "mb":
                return Residual(MBConv(channels, channels, expansion=expansion))
            case "att":
                return AttentionBlock(
                    channels,
                    head_channels=self.head_channels,
                    kernel_size=self.attention_kernel,
                    expansion=expansion,
                )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute all feature maps of an image.

        Args:
            x: ``(N, 3, H, W)``.

        Returns:
            ``stage0``, ``stage1`` ... to ``(N, widths[k], H / 2^(k + 1), W / 2^(k + 1))``.
        """
        features = {}
        for index, stage in enumerate(self.stages):
            x = stage(x)
            features[f"stage{index}"] = x
        return features


class Neck(nn.Module):
    """Bring several stages to one resolution, add them up, refine the sum.

    Args:
        in_channels: channels of each stage that is read, by its name; summed in this order.
        width: channels inside the neck.
        depth: number of FusedMBConv blocks.
        expansion: of these blocks.
        out_channels: channels of the result.
        size: side in pixels of the result.
    """

    OUTPUT = "sam_encoder"

    def __init__(
        self, in_channels: Mapping[str, int], *, width: int, depth: int, expansion: int, out_channels: int, size: int
    ) -> None:
        super().__init__()
        self.input_names = tuple(in_channels)
        self.input_ops = nn.ModuleList(
            Chain([ConvLayer(channels, width, 1), UpSample(size)]) for channels in in_channels.values()
        )
        self.middle = Chain([Residual(FusedMBConv(width, width, expansion=expansion)) for _ in range(depth)])
        self.output_ops = nn.ModuleList([Chain([ConvLayer(width, out_channels, 1, bias=True, norm=False)])])

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Merge the feature maps of the backbone.

        Args:
            features: at least the stages given at construction, each ``(N, C, H, W)``.

        Returns:
            ``{"sam_encoder": (N, out_channels, size, size)}``: a dict, as published, so that hooks written for the
            published model read this one.
        """
        first, *other_features = (op(features[name]) for name, op in zip(self.input_names, self.input_ops, strict=True))
        merged = first
        for other in other_features:
            merged = merged + other
        return {self.OUTPUT: self.output_ops[0](self.middle(merged))}


class ImageEncoder(nn.Module):
    """Backbone, neck and a final norm: from an image to SAM's image embedding.

    Args:
        backbone: gives the stages that the neck reads.
        neck: gives the embedding.
        out_channels: channels of the embedding.
    """

    def __init__(self, backbone: Backbone, neck: Neck, *, out_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.norm = LayerNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)``, normalised, to embeddings ``(N, out_channels, size, size)``."""
        out: Tensor = self.norm(self.neck(self.backbone(x))[Neck.OUTPUT])
        return out


def _downsampling_block(kind: BlockKind, in_channels: int, out_channels: int, *, expansion: int) -> Residual:
    """Halve the resolution: with FusedMBConv in a stage of those, with MBConv in all others."""
    block = FusedMBConv if kind == "fmb" else MBConv
    return Residual(block(in_channels, out_channels, stride=2, expansion=expansion), skip=False)
