"""The sizes of EfficientViT-SAM: five published and a tiny one.

Source:
    Zhang et al., *EfficientViT-SAM: Accelerated Segment Anything Model Without Performance Loss*, 2024, and the
    reference program ``mit-han-lab/efficientvit``; "tiny" is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from sensitivity.zoo.efficientvit import BlockKind


@dataclass(frozen=True, kw_only=True)
class EfficientViTSamConfig:
    """The numbers that make one EfficientViT-SAM differ from another.

    Args:
        widths: channels of each backbone stage.
        depths: blocks of each stage beyond its first.
        kinds: kind of those blocks.
        expansions: hidden channels by channels in those blocks.
        head_channels: channels of an attention head in the backbone.
        attention_kernel: side in pixels of the neighbourhood that attention aggregates.
        neck_width: channels inside the neck.
        neck_depth: blocks of the neck.
        neck_expansion: hidden channels by channels in those blocks.
        image_size: side of the encoder's square input in pixels.
        embedding_size: side of the image embedding in pixels; masks have four times this side.
        prompt_size: side in pixels of the frame in which prompts are encoded.
        decoder_width: channels of the image embedding and the decoder's tokens.
        decoder_depth: two-way blocks of the decoder.
        decoder_heads: heads of its attentions.
        decoder_hidden: hidden channels of its perceptrons.
        iou_hidden: hidden width of the head that predicts mask quality.
        mask_channels: hidden channels of the branch that encodes mask prompts.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kinds: tuple[BlockKind, ...]
    expansions: tuple[int, ...]
    head_channels: int = 32
    attention_kernel: int
    neck_width: int = 256
    neck_depth: int
    neck_expansion: int
    image_size: int
    embedding_size: int = 64
    prompt_size: int = 1024
    decoder_width: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    iou_hidden: int = 256
    mask_channels: int = 16


def _large(depths: tuple[int, ...], *, neck_depth: int) -> EfficientViTSamConfig:
    return EfficientViTSamConfig(
        widths=(32, 64, 128, 256, 512),
        depths=depths,
        kinds=("res", "fmb", "fmb", "mb", "att"),
        expansions=(1, 4, 4, 4, 6),
        attention_kernel=5,
        neck_depth=neck_depth,
        neck_expansion=1,
        image_size=512,
    )


def _extra_large(depths: tuple[int, ...], *, neck_depth: int) -> EfficientViTSamConfig:
    return EfficientViTSamConfig(
        widths=(32, 64, 128, 256, 512, 1024),
        depths=depths,
        kinds=("res", "fmb", "fmb", "fmb", "att", "att"),
        expansions=(1, 4, 4, 4, 4, 6),
        attention_kernel=3,
        neck_depth=neck_depth,
        neck_expansion=4,
        image_size=1024,
    )


CONFIGS: dict[str, EfficientViTSamConfig] = {
    "l0": _large((1, 1, 1, 4, 4), neck_depth=4),
    "l1": _large((1, 1, 1, 6, 6), neck_depth=8),
    "l2": _large((1, 2, 2, 8, 8), neck_depth=12),
    "xl0": _extra_large((0, 1, 1, 2, 3, 3), neck_depth=6),
    "xl1": _extra_large((1, 2, 2, 4, 6, 6), neck_depth=12),
    # the block types of the large models at a size that a CPU trains in minutes; prompts are in input pixels
    "tiny": EfficientViTSamConfig(
        widths=(8, 16, 24, 32, 48),
        depths=(1, 1, 1, 2, 2),
        kinds=("res", "fmb", "fmb", "mb", "att"),
        expansions=(1, 2, 2, 2, 3),
        head_channels=8,
        attention_kernel=5,
        neck_width=48,
        neck_depth=2,
        neck_expansion=1,
        image_size=128,
        embedding_size=16,
        prompt_size=128,
        decoder_width=64,
        decoder_heads=2,
        decoder_hidden=128,
        iou_hidden=64,
    ),
}
"""Every model by the name that ``efficientvit_sam.build`` and ``efficientvit_sam.load`` take."""
