"""ESPNetv2 for PASCAL VOC: grouped and dilated depthwise convolutions, input reinforcement, a gated decoder.

Attribute names and positions are those of the released checkpoints, so they load with ``strict=True``.

Source: Mehta et al., "ESPNetv2: A Light-weight, Power Efficient, and General Purpose Convolutional Neural Network"
(CVPR 2019); the segmentation network of repository sacmehta/EdgeNets (MIT).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
INPUT_SIDE = 384
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Width = Literal["s0.5", "s1.0", "s2.0"]
ENCODER_CHANNELS: dict[Width, tuple[int, int, int, int]] = {  # at stride 2, 4, 8, 16
    "s0.5": (16, 32, 64, 128),
    "s1.0": (32, 64, 128, 256),
    "s2.0": (32, 128, 256, 512),
}
LEVEL3_UNITS, LEVEL4_UNITS = 3, 7
DECODER_CHANNELS = (64, 48, 32, len(CLASSES))  # at stride 16, 8, 4, 2
PYRAMID_CHANNELS = 10
PYRAMID_SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
SMALLEST_PYRAMID_SIDE = 5

WIDE_DILATIONS = (1, 2, 3, 4)
NARROW_DILATIONS = (1, 1, 2, 3)  # on the small maps of level 4


class ESPNetv2(nn.Module):
    """Semantic segmentation network; ``width`` is one of the three released ones."""

    def __init__(self, *, width: Width) -> None:
        super().__init__()
        stride2, stride4, stride8, stride16 = ENCODER_CHANNELS[width]
        decoder1, decoder2, decoder3, classes = DECODER_CHANNELS
        self.base_net = Encoder(ENCODER_CHANNELS[width])
        self.bu_dec_l1 = PyramidPool(stride16, decoder1)
        self.merge_enc_dec_l2 = GatedMerge(stride8, decoder1)
        self.bu_br_l2 = _norm_act(decoder1)
        self.bu_dec_l2 = PyramidPool(decoder1, decoder2)
        self.merge_enc_dec_l3 = GatedMerge(stride4, decoder2)
        self.bu_br_l3 = _norm_act(decoder2)
        self.bu_dec_l3 = PyramidPool(decoder2, decoder3)
        self.merge_enc_dec_l4 = GatedMerge(stride2, decoder3)
        self.bu_br_l4 = _norm_act(decoder3)
        self.bu_dec_l4 = PyramidPool(decoder3, classes, last=True)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits for every pixel.

        Args:
            images: (N, 3, H, W) float32 RGB, normalised with ``MEAN`` and ``STD``; H and W multiples of 16 (384 in
                training).

        Returns:
            (N, 21, H, W) float32 logits, classes in the order of ``CLASSES``.
        """
        stride2, stride4, stride8, stride16 = self.base_net(images)
        x = self.bu_dec_l1(stride16)
        x = self.bu_dec_l2(self.bu_br_l2(_double(x) + self.merge_enc_dec_l2(stride8)))
        x = self.bu_dec_l3(self.bu_br_l3(_double(x) + self.merge_enc_dec_l3(stride4)))
        x = self.bu_dec_l4(self.bu_br_l4(_double(x) + self.merge_enc_dec_l4(stride2)))
        return _resize(x, images.shape[-2:])


class Encoder(nn.Module):
    """Features at stride 2, 4, 8 and 16; the image itself, pooled, is fed in again at every stride from 4."""

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        stride2, stride4, stride8, stride16 = channels
        self.level1 = _conv(3, stride2, 3, stride=2)
        self.level2_0 = DownSampler(stride2, stride4)
        self.level3_0 = DownSampler(stride4, stride8)
        self.level3 = nn.Sequential(*[EESP(stride8, stride8, WIDE_DILATIONS) for _ in range(LEVEL3_UNITS)])
        self.level4_0 = DownSampler(stride8, stride16)
        self.level4 = nn.Sequential(*[EESP(stride16, stride16, NARROW_DILATIONS) for _ in range(LEVEL4_UNITS)])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        quarter = _halve(_halve(images))
        eighth = _halve(quarter)
        stride2 = self.level1(images)
        stride4 = self.level2_0(stride2, quarter)
        stride8 = self.level3(self.level3_0(stride4, eighth))
        stride16 = self.level4(self.level4_0(stride8, _halve(eighth)))
        return stride2, stride4, stride8, stride16


class EESP(nn.Module):
    """Extremely efficient spatial pyramid: reduce, four dilated depthwise branches summed one by one, expand.

    With stride 1 the input is added to the last convolution's linear output. With stride 2 the unit is one half of a
    ``DownSampler``, which adds and activates; ``module_act`` is then unused, but the checkpoint has it.
    """

    def __init__(self, inputs: int, outputs: int, dilations: tuple[int, ...], *, stride: int = 1) -> None:
        super().__init__()
        branches = len(dilations)
        reduced = outputs // branches
        self.stride = stride
        self.proj_1x1 = _conv(inputs, reduced, 1, groups=branches)
        self.spp_dw = nn.ModuleList(
            _named(conv=nn.Conv2d(reduced, reduced, 3, stride, dilation, dilation, groups=reduced, bias=False))
            for dilation in dilations
        )
        self.br_after_cat = _named(bn=nn.BatchNorm2d(outputs), act=nn.PReLU(outputs))
        self.conv_1x1_exp = _conv(outputs, outputs, 1, groups=branches, activation=False)
        self.module_act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.proj_1x1(x)
        fused = [self.spp_dw[0](reduced)]
        for branch in self.spp_dw[1:]:
            fused.append(branch(reduced) + fused[-1])
        expanded: Tensor = self.conv_1x1_exp(self.br_after_cat(torch.cat(fused, dim=1)))
        if self.stride != 1:
            return expanded
        activated: Tensor = self.module_act(expanded + x)
        return activated


class DownSampler(nn.Module):
    """Halves the size: pooled input beside a strided EESP unit, plus a projection of the pooled image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.eesp = EESP(inputs, outputs - inputs, WIDE_DILATIONS, stride=2)
        self.inp_reinf = nn.Sequential(_conv(3, 3, 3), _conv(3, outputs, 1, activation=False))
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        features = torch.cat([_halve(x), self.eesp(x)], dim=1)
        activated: Tensor = self.act(features + self.inp_reinf(image))
        return activated


class PyramidPool(nn.Module):
    """Efficient pyramid pooling: one depthwise convolution at each of five sizes of the map, merged in groups.

    The last one of the decoder gives the class logits: its merging convolution has a bias and nothing after it.
    """

    def __init__(self, inputs: int, outputs: int, *, last: bool = False) -> None:
        super().__init__()
        channels, count = PYRAMID_CHANNELS, len(PYRAMID_SCALES)
        self.projection_layer = _named(cbr=_numbered_conv(inputs, channels, 1))
        self.stages = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False) for _ in PYRAMID_SCALES
        )
        self.merge_layer = nn.Sequential(
            _named(br=_norm_act(channels * count)),
            nn.ChannelShuffle(count),
            _named(cbr=_numbered_conv(channels * count, channels, 3, groups=channels)),
            nn.Conv2d(channels, outputs, 1, bias=last),
        )
        self.br = nn.Identity() if last else _named(br=_norm_act(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection_layer(x)
        levels = [_at_scale(conv, x, scale) for conv, scale in zip(self.stages, PYRAMID_SCALES, strict=True)]
        merged: Tensor = self.br(self.merge_layer(torch.cat(levels, dim=1)))
        return merged


class GatedMerge(nn.Module):
    """Brings encoder features to the decoder's channels, each channel weighted by a gate from the global average."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.Sigmoid())
        self.expansion_layer = _named(cbr=_numbered_conv(inputs, outputs, 3, groups=math.gcd(inputs, outputs)))

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.expansion_layer(x) * self.wt_layer(x)
        return gated


def load(checkpoint: Path, *, width: Width) -> ESPNetv2:
    """The trained network in eval mode, from a safetensors file."""
    model = ESPNetv2(width=width)
    model.load_state_dict(load_file(checkpoint), strict=True)
    return model.eval()


def preprocess(image: np.ndarray) -> Tensor:
    """Turns an (H, W, 3) uint8 RGB image into the (3, 384, 384) float32 network input, aspect ratio ignored."""
    resized = Image.fromarray(image).resize((INPUT_SIDE, INPUT_SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def decode_label_maps(logits: Tensor, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """(height, width) uint8 class maps in the original sizes, from (N, 21, H, W) logits."""
    label_maps = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
    return [
        np.array(Image.fromarray(label_map).resize((width, height), Image.Resampling.NEAREST))
        for label_map, (height, width) in zip(label_maps, sizes, strict=True)
    ]


def _at_scale(conv: nn.Module, x: Tensor, scale: float) -> Tensor:
    """Convolves a map at another size; pooling is used to go down, interpolation to go up."""
    height, width = x.shape[-2:]
    size = height, width
    scaled = _scaled(height, scale), _scaled(width, scale)
    if scale < 1:
        return _resize(conv(F.adaptive_avg_pool2d(x, scaled)), size)
    if scale > 1:
        return F.adaptive_avg_pool2d(conv(_resize(x, scaled)), size)
    same: Tensor = conv(x)
    return same


def _scaled(side: int, scale: float) -> int:
    return max(SMALLEST_PYRAMID_SIDE, math.ceil(side * scale))


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1)


def _conv(
    inputs: int, outputs: int, side: int, *, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and PReLU under the encoder's names ``conv``, ``bn`` and ``act``."""
    conv = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, groups=groups, bias=False)
    if not activation:
        return _named(conv=conv, bn=nn.BatchNorm2d(outputs))
    return _named(conv=conv, bn=nn.BatchNorm2d(outputs), act=nn.PReLU(outputs))


def _numbered_conv(inputs: int, outputs: int, side: int, *, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and PReLU under the decoder's names ``0``, ``1`` and ``2``."""
    conv = nn.Conv2d(inputs, outputs, side, padding=side // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.PReLU(outputs))


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))
