"""Splits, concatenations, pyramids and heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, conv_norm_act, image, layer


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass by, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.point1 = conv_norm_act(half, half, 1)
        self.depthwise = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.norm = nn.BatchNorm2d(half)
        self.point2 = conv_norm_act(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        unchanged, changed = x.chunk(2, dim=1)
        changed = self.point2(self.norm(self.depthwise(self.point1(changed))))
        n, c, h, w = x.shape
        return torch.cat((unchanged, changed), 1).view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def make_shuffle() -> nn.Module:
    return nn.Sequential(conv_norm_act(3, 8), ShuffleUnit(8), ShuffleUnit(8), nn.Conv2d(8, 2, 1))


class DenseLayer(nn.Module):
    """Norm and activation before each convolution, and all earlier features beside the new ones."""

    def __init__(self, read: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(read)
        self.conv1 = nn.Conv2d(read, 12, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 4, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseNet(nn.Module):
    """Three dense layers; a list of features is what flows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 8)
        self.layers = nn.ModuleList(DenseLayer(8 + 4 * i) for i in range(3))
        self.norm = nn.BatchNorm2d(20)
        self.fc = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for dense in self.layers:
            features.append(dense(features))
        return self.fc(F.relu(self.norm(torch.cat(features, 1))).mean((2, 3)))


class SplitBlock(nn.Module):
    """A cross-stage block of the YOLO family: split, two bottlenecks that activate before the add, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 8)
        self.cv1 = conv_norm_act(8, 8, 1)
        self.inner = nn.ModuleList(nn.Sequential(conv_norm_act(4, 4), conv_norm_act(4, 4)) for _ in range(2))
        self.cv2 = conv_norm_act(16, 8, 1)
        self.head = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(self.stem(x)).split((4, 4), 1))
        for inner in self.inner:
            parts.append(parts[-1] + inner(parts[-1]))
        return self.head(self.cv2(torch.cat(parts, 1))).sigmoid()


class Pyramid(nn.Module):
    """A feature pyramid, and one head for its three levels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleList([conv_norm_act(3, 8, stride=2)])
        self.backbone.extend([conv_norm_act(8, 12, stride=2), conv_norm_act(12, 16, stride=2)])
        self.laterals = nn.ModuleList(nn.Conv2d(c, 8, 1) for c in (8, 12, 16))
        self.smooth = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.tower = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.classes = nn.Conv2d(8, 4, 3, padding=1)
        self.boxes = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        features = []
        for stage in self.backbone:
            x = stage(x)
            features.append(x)
        levels = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for i in (2, 1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], scale_factor=2.0, mode="nearest")
        towers = [self.tower(smooth(level)) for smooth, level in zip(self.smooth, levels, strict=True)]
        return {
            "classes": [self.classes(tower) for tower in towers],
            "boxes": [F.relu(self.boxes(tower)) for tower in towers],
        }


class NormPerLevel(nn.Module):
    """EfficientDet's head: the levels share the convolution and have norms of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 8)
        self.shared = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.predict = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        levels = []
        for norm in self.norms:
            levels.append(self.predict(F.silu(norm(self.shared(x)))).flatten(2))
            x = F.avg_pool2d(x, 2)
        return torch.cat(levels, 2).permute(0, 2, 1)


class Gathered(nn.Module):
    """Two convolutions write into slices of one tensor; no operator reads their outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 8)
        self.left = nn.Conv2d(8, 2, 1)
        self.right = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = x.new_zeros(x.shape[0], 4, *x.shape[2:])
        out[:, :2] = self.left(x)
        out[:, 2:] = self.right(x)
        return out


class Overwritten(nn.Module):
    """A part of a tensor is replaced, then all of it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Conv2d(3, 8, 3, padding=1)
        self.patch = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.base(x)
        changed = x.clone()
        changed[:, :4] = self.patch(x)
        changed[:, 4:].relu_()
        return self.head(changed)


class UNet(nn.Module):
    """Skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = conv_norm_act(3, 4)
        self.down2 = conv_norm_act(4, 8)
        self.up1 = nn.ConvTranspose2d(8, 4, 2, 2)
        self.join1 = conv_norm_act(8, 4)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down1(x)
        x = self.up1(self.down2(F.max_pool2d(skip, 2)))
        return self.out(self.join1(torch.cat([skip, x], 1)))


CASES = (
    Case(
        "channel_shuffle",
        make_shuffle,
        image(),
        (
            layer("0.conv", "BatchNorm2d", "ReLU", "stem"),
            *(
                part
                for i in (1, 2)
                for part in (
                    layer(f"{i}.point1.conv", "BatchNorm2d", "ReLU"),
                    layer(f"{i}.depthwise", "BatchNorm2d", None, "depthwise"),
                    layer(f"{i}.point2.conv", "BatchNorm2d", "ReLU"),
                )
            ),
            layer("3", None, None, "output"),
        ),
    ),
    Case(
        "dense_concatenation",
        DenseNet,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            *(
                part
                for i in range(3)
                for part in (
                    layer(f"layers.{i}.conv1", "BatchNorm2d", "ReLU"),
                    layer(f"layers.{i}.conv2", None, None),
                )
            ),
            layer("fc", None, None, "output"),
        ),
    ),
    Case(
        "cross_stage",
        SplitBlock,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("cv1.conv", "BatchNorm2d", "ReLU"),
            *(layer(f"inner.{i}.{j}.conv", "BatchNorm2d", "ReLU") for i in range(2) for j in range(2)),
            layer("cv2.conv", "BatchNorm2d", "ReLU"),
            layer("head", None, "Sigmoid", "output"),
        ),
    ),
    Case(
        "pyramid",
        Pyramid,
        image(32),
        (
            layer("backbone.0.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("backbone.1.conv", "BatchNorm2d", "ReLU"),
            layer("backbone.2.conv", "BatchNorm2d", "ReLU"),
            *(layer(f"laterals.{i}", None, None) for i in range(3)),
            layer("smooth.0", None, None),
            layer("tower.0", "GroupNorm", "ReLU", calls=3),
            layer("smooth.1", None, None),
            layer("smooth.2", None, None),
            layer("classes", None, None, "output", calls=3, role="output"),
            layer("boxes", None, "ReLU", "output", calls=3, role="output"),
        ),
    ),
    Case(
        "norm_per_level",
        NormPerLevel,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("shared", "BatchNorm2d", "SiLU", calls=3),
            layer("predict", None, None, "output", calls=3),
        ),
    ),
    Case(
        "written_into_slices",
        Gathered,
        image(),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("left", None, None, "output"),
            layer("right", None, None, "output"),
        ),
    ),
    Case(
        "partly_overwritten",
        Overwritten,
        image(),
        (
            layer("base", None, None, "stem"),
            layer("patch", None, None),
            layer("head", None, None, "output"),
        ),
    ),
    Case(
        "unet",
        UNet,
        image(),
        (
            layer("down1.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("down2.conv", "BatchNorm2d", "ReLU"),
            layer("up1", None, None),
            layer("join1.conv", "BatchNorm2d", "ReLU"),
            layer("out", None, None, "output"),
        ),
    ),
)
