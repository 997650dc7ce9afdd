"""Blocks that end in an add, and blocks that look like it and do not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, ExpectedLayer, conv_norm_act, image, layer


def conv3x3(read: int, write: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(read, write, 3, stride, 1, bias=False)


class BasicBlock(nn.Module):
    """Two convolutions, an add, a ReLU behind the add."""

    def __init__(self, read: int, write: int, stride: int = 1, *, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = conv3x3(read, write, stride)
        self.bn1 = nn.BatchNorm2d(write)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(write, write)
        self.bn2 = nn.BatchNorm2d(write)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, and a projection of the input that runs last."""

    def __init__(self, read: int, middle: int, write: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(read, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = conv3x3(middle, middle, stride)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, write, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(write)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or read != write:
            self.downsample = nn.Sequential(nn.Conv2d(read, write, 1, stride, bias=False), nn.BatchNorm2d(write))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(out + identity)


class Classifier(nn.Module):
    """A stem, blocks, average pooling and a linear layer."""

    def __init__(self, stem: nn.Module, blocks: nn.Sequential, width: int) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = blocks
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1), 1))


def make_basic() -> nn.Module:
    narrow = nn.Sequential(nn.Conv2d(8, 12, 1, 2, bias=False), nn.BatchNorm2d(12))
    blocks = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 12, 2, downsample=narrow), BasicBlock(12, 12))
    return Classifier(nn.Sequential(conv_norm_act(3, 8), nn.MaxPool2d(2)), blocks, 12)


def make_bottleneck() -> nn.Module:
    return Classifier(conv_norm_act(3, 8), nn.Sequential(Bottleneck(8, 4, 16, 2), Bottleneck(16, 4, 16)), 16)


def make_headless() -> nn.Module:
    return nn.Sequential(conv_norm_act(3, 8), BasicBlock(8, 8), BasicBlock(8, 8))


def basic_layers(path: str, *, shortcut: bool = False, last: bool = False) -> tuple[ExpectedLayer, ...]:
    projection = (layer(f"{path}.downsample.0", "BatchNorm2d", None, role="shortcut"),) if shortcut else ()
    return (
        *projection,
        layer(f"{path}.conv1", "BatchNorm2d", "ReLU", kind="res"),
        layer(f"{path}.conv2", "BatchNorm2d", None, "exit output" if last else "exit", kind="res", role="exit"),
    )


class GroupedBottleneck(nn.Module):
    """ResNeXt's: the convolution in the middle is grouped and not depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 8)
        self.reduce = conv_norm_act(8, 12, 1)
        self.grouped = conv_norm_act(12, 12, groups=3)
        self.restore = nn.Conv2d(12, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.norm(self.restore(self.grouped(self.reduce(x))))))


class PreActivation(nn.Module):
    """Norm and activation before each convolution; the first pair is shared with the projection."""

    def __init__(self, read: int, write: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(read)
        self.conv1 = conv3x3(read, write, stride)
        self.bn2 = nn.BatchNorm2d(write)
        self.conv2 = conv3x3(write, write)
        self.shortcut = nn.Conv2d(read, write, 1, stride) if stride > 1 or read != write else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + skip


def make_preactivation() -> nn.Module:
    blocks = nn.Sequential(PreActivation(8, 8), PreActivation(8, 12, 2), nn.BatchNorm2d(12), nn.ReLU())
    return Classifier(conv3x3(3, 8), blocks, 12)


class PaddedShortcut(nn.Module):
    """ResNet's option A: the shortcut is every second pixel, with channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 4)
        self.conv1 = conv3x3(4, 8, 2)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = conv3x3(8, 8)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.head(F.relu(out + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))))


class ScaledResidual(nn.Module):
    """Residuals written in four other ways, each scaled or dropped at random in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 8)
        self.first = nn.ModuleList(conv3x3(8, 8) for _ in range(4))
        self.second = nn.ModuleList(conv3x3(8, 8) for _ in range(4))
        self.scale = nn.Parameter(torch.full((1, 8, 1, 1), 0.1))
        self.drop = nn.Dropout2d(0.2)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branch = [lambda x, i=i: self.second[i](F.relu(self.first[i](x))) for i in range(4)]
        x = x + 0.2 * branch[0](x)
        x = torch.add(branch[1](x), x)
        x = self.scale * self.drop(branch[2](x)) + x
        x = branch[3](x).add_(x)
        return self.head(F.relu(x))


class DarknetBlock(nn.Module):
    """The activation is in front of the add, so the last convolution is no exit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 8)
        self.conv1 = conv_norm_act(8, 4, 1)
        self.conv2 = conv_norm_act(4, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.conv2(self.conv1(x)))


CASES = (
    Case(
        "basic_blocks",
        make_basic,
        image(),
        (
            layer("stem.0.conv", "BatchNorm2d", "ReLU", "stem", role="stem", kind="independent"),
            *basic_layers("blocks.0"),
            *basic_layers("blocks.1", shortcut=True),
            *basic_layers("blocks.2"),
            layer("fc", None, None, "output", role="output", kind="independent"),
        ),
    ),
    Case(
        "bottlenecks",
        make_bottleneck,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("blocks.0.conv1", "BatchNorm2d", "ReLU", kind="res"),
            layer("blocks.0.conv2", "BatchNorm2d", "ReLU", kind="res"),
            layer("blocks.0.conv3", "BatchNorm2d", None, "exit", kind="res", role="exit"),
            layer("blocks.0.downsample.0", "BatchNorm2d", None, role="shortcut"),
            layer("blocks.1.conv1", "BatchNorm2d", "ReLU", kind="res"),
            layer("blocks.1.conv2", "BatchNorm2d", "ReLU", kind="res"),
            layer("blocks.1.conv3", "BatchNorm2d", None, "exit", kind="res", role="exit"),
            layer("fc", None, None, "output"),
        ),
    ),
    Case(
        "grouped_bottleneck",
        GroupedBottleneck,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("reduce.conv", "BatchNorm2d", "ReLU", kind="res"),
            layer("grouped.conv", "BatchNorm2d", "ReLU", kind="res"),
            layer("restore", "BatchNorm2d", None, "exit", kind="res", role="exit"),
            layer("head", None, None, "output"),
        ),
    ),
    Case(
        "headless_residual",
        make_headless,
        image(),
        (
            layer("0.conv", "BatchNorm2d", "ReLU", "stem"),
            *basic_layers("1"),
            *basic_layers("2", last=True),
        ),
    ),
    Case(
        "preactivation",
        make_preactivation,
        image(),
        (
            layer("stem", None, None, "stem"),
            layer("blocks.0.conv1", "BatchNorm2d", "ReLU", kind="res"),
            layer("blocks.0.conv2", None, None, "exit", kind="res", role="exit"),
            layer("blocks.1.shortcut", None, None, role="shortcut"),
            layer("blocks.1.conv1", "BatchNorm2d", "ReLU", kind="res"),
            layer("blocks.1.conv2", None, None, "exit", kind="res", role="exit"),
            layer("fc", None, None, "output"),
        ),
    ),
    Case(
        "padded_shortcut",
        PaddedShortcut,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("conv1", "BatchNorm2d", "ReLU", kind="res"),
            layer("conv2", "BatchNorm2d", None, "exit", kind="res", role="exit"),
            layer("head", None, None, "output"),
        ),
    ),
    Case(
        "scaled_residuals",
        ScaledResidual,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            *(
                part
                for i in range(4)
                for part in (
                    layer(f"first.{i}", None, "ReLU", kind="res"),
                    layer(f"second.{i}", None, None, "exit", kind="res", role="exit"),
                )
            ),
            layer("head", None, None, "output"),
        ),
    ),
    Case(
        "activation_before_add",
        DarknetBlock,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("conv1.conv", "BatchNorm2d", "ReLU"),
            layer("conv2.conv", "BatchNorm2d", "ReLU"),
            layer("head", None, None, "output"),
        ),
    ),
)
