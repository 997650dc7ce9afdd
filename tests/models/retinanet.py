"""RetinaNet with a ResNet-50 and a feature pyramid: heads shared over five levels, in-place activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ANCHORS = 9


class Bottleneck(nn.Module):
    """Three convolutions, one ReLU module for all, and an add in place."""

    def __init__(self, read: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(read, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or read != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(read, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """The three coarser feature maps of a ResNet, at strides 8, 16 and 32."""

    def __init__(self, width: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        read, stages = width, []
        for number, depth in enumerate(depths):
            inner = width * 2**number
            blocks = [
                Bottleneck(read if not b else 4 * inner, inner, 2 if number and not b else 1) for b in range(depth)
            ]
            stages.append(nn.Sequential(*blocks))
            read = 4 * inner
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        fine = self.layer2(x)
        middle = self.layer3(fine)
        return [fine, middle, self.layer4(middle)]


class Pyramid(nn.Module):
    """Top down: each level is its own map plus the coarser level enlarged; two more levels by strided convolutions."""

    def __init__(self, reads: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(read, width, 1) for read in reads)
        self.layer_blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in reads)
        self.p6 = nn.Conv2d(width, width, 3, 2, 1)
        self.p7 = nn.Conv2d(width, width, 3, 2, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        inner = self.inner_blocks[-1](maps[-1])
        levels = [self.layer_blocks[-1](inner)]
        for index in range(len(maps) - 2, -1, -1):
            lateral = self.inner_blocks[index](maps[index])
            inner = lateral + F.interpolate(inner, size=lateral.shape[-2:], mode="nearest")
            levels.insert(0, self.layer_blocks[index](inner))
        levels.append(self.p6(levels[-1]))
        levels.append(self.p7(F.relu(levels[-1])))
        return levels


class Head(nn.Module):
    """Four convolutions and one that predicts, the same weights for every level."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        convs = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)) for _ in range(4)]
        self.conv = nn.Sequential(*convs)
        self.predict = nn.Conv2d(width, ANCHORS * outputs, 3, padding=1)
        self.outputs = outputs

    def forward(self, levels: list[Tensor]) -> Tensor:
        predicted = []
        for level in levels:
            n, _, height, width = level.shape
            raw = self.predict(self.conv(level)).view(n, ANCHORS, self.outputs, height, width)
            predicted.append(raw.permute(0, 3, 4, 1, 2).reshape(n, -1, self.outputs))
        return torch.cat(predicted, dim=1)


class RetinaNet(nn.Module):
    """Up to the raw outputs: class scores (N, anchors, classes) and box offsets (N, anchors, 4)."""

    def __init__(
        self, width: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3), head: int = 256, classes: int = 91
    ) -> None:
        super().__init__()
        self.body = ResNet(width, depths)
        self.fpn = Pyramid((8 * width, 16 * width, 32 * width), head)
        self.classification = Head(head, classes)
        self.regression = Head(head, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = self.fpn(self.body(x))
        return {"scores": self.classification(levels).sigmoid(), "boxes": self.regression(levels)}
