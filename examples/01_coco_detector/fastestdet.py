"""FastestDet: a ShuffleNetV2 backbone, three scales merged on one grid, and an anchor-free head.

Attribute names and positions are those of the released checkpoint, so it loads with ``strict=True``.

Source: repository dog-qiuqiu/FastestDet (BSD-3).
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

CLASSES = 80
STEM_CHANNELS = 24
STAGE_CHANNELS = (48, 96, 192)
STAGE_UNITS = (4, 8, 4)
HEAD_CHANNELS = 96


class FastestDet(nn.Module):
    """Detector with one prediction per cell of a stride-16 grid; boxes are made by ``decode.decode_fastestdet``."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.SPP = SpatialPyramid(sum(STAGE_CHANNELS), HEAD_CHANNELS)
        self.detect_head = DetectHead(HEAD_CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        """Predictions of a batch.

        Args:
            images: (N, 3, H, W) float32 **BGR** in [0, 1], H and W multiples of 32 (352 in training).

        Returns:
            (N, 85, H/16, W/16) float32: objectness in [0, 1], four raw box values, 80 class probabilities.
        """
        fine, middle, coarse = self.backbone(images)
        pooled = F.avg_pool2d(fine, 3, stride=2, padding=1)
        raised = F.interpolate(coarse, scale_factor=2, mode="nearest")
        prediction: Tensor = self.detect_head(self.SPP(torch.cat([pooled, middle, raised], dim=1)))
        return prediction


class Backbone(nn.Module):
    """ShuffleNetV2 with outputs at stride 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = _convs(_full(3, STEM_CHANNELS, 3, stride=2))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = (STEM_CHANNELS, *STAGE_CHANNELS)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(DownUnit(inputs[stage]), *[KeepUnit(inputs[stage]) for _ in range(units - 1)])
            for stage, units in enumerate(STAGE_UNITS)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.stage2(self.maxpool(self.first_conv(images)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class DownUnit(nn.Module):
    """Halves the size and doubles the channels: two strided branches side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch_proj = _convs(
            _depthwise(channels, 3, stride=2, activation=False),
            _full(channels, channels, 1),
        )
        self.branch_main = _unit_branch(channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch_proj(x), self.branch_main(x)], dim=1)


class KeepUnit(nn.Module):
    """Keeps the shape: even channels pass, odd ones are convolved; taking every second channel is the shuffle."""

    def __init__(self, branch_channels: int) -> None:
        super().__init__()
        self.branch_main = _unit_branch(branch_channels, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 0::2], self.branch_main(x[:, 1::2])], dim=1)


class SpatialPyramid(nn.Module):
    """Three receptive fields from one, two and three depthwise 5x5 in a row, merged and added to their input."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.Conv1x1 = _wrapped("conv1x1", _full(inputs, channels, 1))
        self.S1, self.S2, self.S3 = (_convs(*[_depthwise(channels, 5) for _ in range(length)]) for length in (1, 2, 3))
        self.output = _convs(_full(3 * channels, channels, 1, activation=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv1x1(x)
        merged: Tensor = self.output(torch.cat([self.S1(x), self.S2(x), self.S3(x)], dim=1))
        return F.relu(x + merged)


class DetectHead(nn.Module):
    """Objectness, box and class branches on one shared feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1x1 = _wrapped("conv1x1", _full(channels, channels, 1))
        self.obj_layers, self.reg_layers, self.cls_layers = (
            _wrapped("conv5x5", _depthwise(channels, 5), _full(channels, outputs, 1, activation=False))
            for outputs in (1, 4, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        objectness, boxes, classes = self.obj_layers(x), self.reg_layers(x), self.cls_layers(x)
        return torch.cat([objectness.sigmoid(), boxes, classes.softmax(dim=1)], dim=1)


def load(checkpoint: Path) -> FastestDet:
    """The trained detector in eval mode, from a safetensors file."""
    model = FastestDet()
    model.load_state_dict(load_file(checkpoint), strict=True)
    return model.eval()


def _unit_branch(channels: int, *, stride: int) -> nn.Sequential:
    return _convs(
        _full(channels, channels, 1),
        _depthwise(channels, 3, stride=stride, activation=False),
        _full(channels, channels, 1),
    )


def _full(inputs: int, outputs: int, side: int, *, stride: int = 1, activation: bool = True) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    return _with_norm(conv, activation)


def _depthwise(channels: int, side: int, *, stride: int = 1, activation: bool = True) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, side, stride, padding=side // 2, groups=channels, bias=False)
    return _with_norm(conv, activation)


def _with_norm(conv: nn.Conv2d, activation: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(conv.out_channels)]
    return [*layers, nn.ReLU()] if activation else layers


def _convs(*groups: list[nn.Module]) -> nn.Sequential:
    """One flat sequence: the checkpoint counts convolution, norm and activation one by one."""
    return nn.Sequential(*[module for group in groups for module in group])


def _wrapped(name: str, *groups: list[nn.Module]) -> nn.Sequential:
    """The same, one level down, where the checkpoint has an extra name."""
    return nn.Sequential(OrderedDict({name: _convs(*groups)}))
