"""Inverted residuals: expand, depthwise or dense in the middle, and a narrow exit, with and without an add."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, ExpectedLayer, conv_norm_act, image, layer
from .residual import Classifier


class Inverted(nn.Module):
    """Expand, depthwise, project; the add is there where the shapes allow it."""

    def __init__(self, read: int, middle: int, write: int, stride: int = 1, *, expand: bool = True) -> None:
        super().__init__()
        self.expand = conv_norm_act(read, middle, 1) if expand else nn.Identity()
        self.depthwise = conv_norm_act(middle, middle, stride=stride, groups=middle)
        self.project = nn.Sequential(nn.Conv2d(middle, write, 1, bias=False), nn.BatchNorm2d(write))
        self.adds = stride == 1 and read == write

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.adds else out


def make_inverted() -> nn.Module:
    blocks = nn.Sequential(Inverted(8, 24, 12, 2), Inverted(12, 36, 12), conv_norm_act(12, 20, 1))
    return Classifier(conv_norm_act(3, 8), blocks, 20)


def inverted_layers(path: str) -> tuple[ExpectedLayer, ...]:
    return (
        layer(f"{path}.expand.conv", "BatchNorm2d", "ReLU", kind="mb", role="expand"),
        layer(f"{path}.depthwise.conv", "BatchNorm2d", "ReLU", "depthwise", kind="mb", role="depthwise"),
        layer(f"{path}.project.0", "BatchNorm2d", None, "exit", kind="mb", role="exit"),
    )


class Fused(nn.Module):
    """A dense 3x3 expansion and a narrowing 1x1."""

    def __init__(self, read: int, middle: int, write: int, stride: int = 1) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(read, middle, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.act = nn.GELU(approximate="tanh")
        self.point = nn.Conv2d(middle, write, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(write)
        self.adds = stride == 1 and read == write

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.point(self.act(self.norm1(self.spatial(x)))))
        return x + out if self.adds else out


def make_fused() -> nn.Module:
    return Classifier(conv_norm_act(3, 8), nn.Sequential(Fused(8, 32, 12, 2), Fused(12, 48, 12)), 12)


def fused_layers(path: str) -> tuple[ExpectedLayer, ...]:
    return (
        layer(f"{path}.spatial", "BatchNorm2d", "GELU(tanh)", kind="fmb"),
        layer(f"{path}.point", "BatchNorm2d", None, "exit", kind="fmb", role="exit"),
    )


class NoExits(nn.Module):
    """Activation-free or narrowing 1x1 convolutions that end no block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 8)
        self.separable_depthwise = conv_norm_act(8, 8, groups=8)
        self.separable_pointwise = conv_norm_act(8, 16, 1)
        self.narrow_with_activation = conv_norm_act(16, 6, 1)
        self.wide = nn.Conv2d(6, 24, 1)
        self.head = nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.separable_pointwise(self.separable_depthwise(self.stem(x)))
        return self.head(F.max_pool2d(self.wide(self.narrow_with_activation(x)), 2))


class SqueezeExcite(nn.Module):
    """A gate computed from the tensor that it multiplies: no self-gated activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 4, 1)
        self.fc2 = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.fc2(gate))


class MobileBlock(nn.Module):
    """MobileNetV3's block; the gate stands behind or in front of the depthwise activation."""

    def __init__(self, channels: int, middle: int, *, gate_first: bool) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.depthwise = nn.Conv2d(middle, middle, 5, 1, 2, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.se = SqueezeExcite(middle)
        self.project = nn.Conv2d(middle, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.gate_first = gate_first

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.depthwise(F.hardswish(self.bn1(self.expand(x)))))
        out = F.hardswish(self.se(out)) if self.gate_first else self.se(F.hardswish(out))
        return x + self.bn3(self.project(out))


def make_mobile() -> nn.Module:
    blocks = nn.Sequential(MobileBlock(8, 24, gate_first=False), MobileBlock(8, 24, gate_first=True))
    return Classifier(conv_norm_act(3, 8), blocks, 8)


def mobile_layers(path: str, activation: str | None) -> tuple[ExpectedLayer, ...]:
    return (
        layer(f"{path}.expand", "BatchNorm2d", "Hardswish", kind="mb", role="expand"),
        layer(f"{path}.depthwise", "BatchNorm2d", activation, "depthwise", kind="mb", role="depthwise"),
        layer(f"{path}.se.fc1", None, "ReLU"),
        layer(f"{path}.se.fc2", None, "Hardsigmoid"),
        layer(f"{path}.project", "BatchNorm2d", None, "exit", kind="mb", role="exit"),
    )


class ConvNeXtBlock(nn.Module):
    """Depthwise, layer norm, and two linear layers on channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        out = self.gamma * self.pwconv2(self.act(self.pwconv1(out)))
        return x + self.drop_path(out.permute(0, 3, 1, 2))


def make_convnext() -> nn.Module:
    return Classifier(nn.Conv2d(3, 8, 4, 4), nn.Sequential(ConvNeXtBlock(8), ConvNeXtBlock(8)), 8)


def convnext_layers(path: str) -> tuple[ExpectedLayer, ...]:
    return (
        layer(f"{path}.dwconv", "LayerNorm", None, "depthwise"),
        layer(f"{path}.pwconv1", None, "GELU"),
        layer(f"{path}.pwconv2", None, None, "exit", role="exit"),
    )


CASES = (
    Case(
        "inverted_residuals",
        make_inverted,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            *inverted_layers("blocks.0"),
            *inverted_layers("blocks.1"),
            layer("blocks.2.conv", "BatchNorm2d", "ReLU", kind="independent"),
            layer("fc", None, None, "output"),
        ),
    ),
    Case(
        "depthwise_then_project",
        lambda: Classifier(conv_norm_act(3, 8), nn.Sequential(Inverted(8, 8, 8, expand=False)), 8),
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("blocks.0.depthwise.conv", "BatchNorm2d", "ReLU", "depthwise"),
            layer("blocks.0.project.0", "BatchNorm2d", None, "exit", role="exit"),
            layer("fc", None, None, "output"),
        ),
    ),
    Case(
        "fused_inverted_residuals",
        make_fused,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            *fused_layers("blocks.0"),
            *fused_layers("blocks.1"),
            layer("fc", None, None, "output"),
        ),
    ),
    Case(
        "no_exits",
        NoExits,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("separable_depthwise.conv", "BatchNorm2d", "ReLU", "depthwise"),
            layer("separable_pointwise.conv", "BatchNorm2d", "ReLU"),
            layer("narrow_with_activation.conv", "BatchNorm2d", "ReLU"),
            layer("wide", None, None),
            layer("head", None, None, "output"),
        ),
    ),
    Case(
        "squeeze_excite",
        make_mobile,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            *mobile_layers("blocks.0", "Hardswish"),
            *mobile_layers("blocks.1", None),
            layer("fc", None, None, "output"),
        ),
    ),
    Case(
        "convnext",
        make_convnext,
        image(),
        (
            layer("stem", None, None, "stem"),
            *convnext_layers("blocks.0"),
            *convnext_layers("blocks.1"),
            layer("fc", None, None, "output"),
        ),
    ),
)
