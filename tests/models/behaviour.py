"""Models that decide, remember, throw dice or refuse, and models in unusual states."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, conv_norm_act, image, layer
from .plain import PLAIN_LAYERS, Plain


class ShapeDependent(nn.Module):
    """Small images take one way, large ones another."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Conv2d(3, 4, 1)
        self.large = nn.Conv2d(3, 4, 3, 2, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.large(x) if x.shape[-1] > 12 else self.small(x)
        return self.head(F.relu(x))


class ValueDependent(nn.Module):
    """The values of the image decide which branch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.bright = nn.Conv2d(3, 4, 1)
        self.dark = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bright(x) if x.mean() > 0 else self.dark(x)
        return self.head(F.relu(x))


class Detector(nn.Module):
    """Boxes are chosen by score, suppressed greedily, and each is read again by a second stage."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = conv_norm_act(3, 8, stride=2)
        self.scores = nn.Conv2d(8, 1, 1)
        self.boxes = nn.Conv2d(8, 4, 1)
        self.refine = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        features = self.backbone(x)
        scores = self.scores(features).sigmoid().flatten(1)
        boxes = self.boxes(features).flatten(2).transpose(1, 2)
        return [self.choose(*item) for item in zip(scores, boxes, features.flatten(2).transpose(1, 2), strict=True)]

    def choose(self, scores: Tensor, boxes: Tensor, features: Tensor) -> dict[str, Tensor]:
        keep = (scores > scores.median()).nonzero().squeeze(1)
        keep = keep[scores[keep].argsort(descending=True)]
        chosen: list[Tensor] = []
        while keep.numel():
            chosen.append(keep[0])
            keep = keep[1:][(boxes[keep[1:]] - boxes[keep[0]]).abs().amax(1) > 0.2]
        index = torch.stack(chosen) if chosen else keep
        return {"scores": scores[index], "boxes": boxes[index] + self.refine(features[index])}


class FindsNothing(nn.Module):
    """No pixel passes the threshold: the second stage reads an empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(3, 4, 1)
        self.refine = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.scores(x).permute(0, 2, 3, 1).flatten(0, 2)
        return self.refine(features[features.sigmoid().amax(1) > 2.0])


class Noisy(nn.Module):
    """Draws random numbers in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.conv(x)), 0.3, training=True)
        return self.head(x + 0.1 * torch.rand(x.shape[-1]))


class Counter(nn.Module):
    """Writes into buffers: in place, by a new tensor, and into one that is not saved."""

    runs: Tensor
    peak: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("runs", torch.zeros((), dtype=torch.long))
        self.register_buffer("peak", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.peak = torch.maximum(self.peak, x.max())
        y = self.conv(x)
        self.mean.mul_(0.9).add_(y.mean((0, 2, 3)), alpha=0.1)
        return y


class TrainingMode(nn.Module):
    """Batch norm and dropout in training mode, with one frozen norm in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6).eval()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.drop(F.relu(self.bn2(self.conv2(x))))
        return self.fc(x.mean((2, 3)))


TRAINING_LAYERS = (
    layer("conv1", "BatchNorm2d", "ReLU", "stem"),
    layer("conv2", "BatchNorm2d", "ReLU"),
    layer("fc", None, None, "output"),
)


def ignore_call(module: nn.Module, inputs: Any, output: Any) -> None:
    """A hook that does nothing but be there."""


def make_hooked() -> nn.Module:
    model = Plain()
    model.conv1.register_forward_hook(ignore_call)
    model.bn1.register_forward_pre_hook(lambda module, inputs: None)
    model.register_forward_hook(ignore_call)
    model.fc.register_full_backward_hook(lambda module, grads_in, grads_out: None)
    return model


def make_mixed_grad() -> nn.Module:
    model = Plain()
    model.conv1.requires_grad_(False)
    model.bn2.requires_grad_(False)
    return model


CASES = (
    Case(
        "small_image",
        ShapeDependent,
        image(8),
        (layer("small", None, "ReLU", "stem"), layer("head", None, None, "output")),
        skipped={"large": "never called"},
    ),
    Case(
        "large_image",
        ShapeDependent,
        image(16),
        (layer("large", None, "ReLU", "stem"), layer("head", None, None, "output")),
        skipped={"small": "never called"},
    ),
    Case(
        "bright_image",
        ValueDependent,
        lambda: torch.rand(1, 3, 8, 8) + 0.1,
        (layer("bright", None, "ReLU", "stem"), layer("head", None, None, "output")),
        skipped={"dark": "never called"},
    ),
    Case(
        "dark_image",
        ValueDependent,
        lambda: torch.rand(1, 3, 8, 8) - 1.1,
        (layer("dark", None, "ReLU", "stem"), layer("head", None, None, "output")),
        skipped={"bright": "never called"},
    ),
    Case(
        "detector",
        Detector,
        image(8),
        (
            layer("backbone.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("scores", None, "Sigmoid", "output"),
            layer("boxes", None, None, "output"),
            layer("refine", None, None, "output", unsure="exit"),
        ),
    ),
    Case(
        "detector_batch_of_two",
        Detector,
        image(8, batch=2),
        (
            layer("backbone.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("scores", None, "Sigmoid", "output"),
            layer("boxes", None, None, "output"),
            layer("refine", None, None, "output", unsure="exit", calls=2),
        ),
    ),
    Case(
        "finds_nothing",
        FindsNothing,
        image(8),
        # which pixels are read depends on the first layer, and their values come from it
        (layer("scores", None, None, "stem"), layer("refine", None, None, "output")),
    ),
    Case(
        "noisy",
        Noisy,
        image(8),
        (layer("conv", None, "ReLU", "stem"), layer("head", None, None, "output")),
    ),
    Case("counter", Counter, image(8), (layer("conv", None, None, "stem output"),)),
    Case("training_mode", TrainingMode, image(8, batch=2), TRAINING_LAYERS, in_training=True),
    Case("hooked", make_hooked, image(), PLAIN_LAYERS),
    Case("frozen", lambda: Plain().requires_grad_(False), image(), PLAIN_LAYERS),
    Case("partly_frozen", make_mixed_grad, image(), PLAIN_LAYERS),
    Case("half", lambda: Plain().half(), image(dtype=torch.float16), PLAIN_LAYERS),
    Case("bfloat16", lambda: Plain().bfloat16(), image(dtype=torch.bfloat16), PLAIN_LAYERS),
    Case("double", lambda: Plain().double(), image(dtype=torch.float64), PLAIN_LAYERS),
    Case(
        "channels_last",
        lambda: Plain().to(memory_format=torch.channels_last),
        lambda: torch.randn(1, 3, 16, 16).contiguous(memory_format=torch.channels_last),
        PLAIN_LAYERS,
    ),
)
