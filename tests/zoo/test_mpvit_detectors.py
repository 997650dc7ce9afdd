"""MPViT under RetinaNet and Mask R-CNN: parameters and FLOPs are those of the paper's tables, within rounding.

FLOPs are counted as the paper's framework counts them, at 1280 x 800: multiply-adds and biases of convolutions and
linear layers, two for each element of a batch norm, one for each of a ReLU; the products inside attention are not
counted. 1000 proposals reach the box head, 100 the mask head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensitivity.zoo import mpvit

WIDTH = 256
ANCHORS, CLASSES = 9, 80


class Pyramid(nn.Module):
    """A feature pyramid, with two more levels from the deepest map or without."""

    def __init__(self, channels: list[int], *, extra: bool) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(into, WIDTH, 1) for into in channels)
        self.output = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in channels)
        into = (channels[-1], WIDTH) if extra else ()
        self.extra = nn.ModuleList(nn.Conv2d(width, WIDTH, 3, 2, 1) for width in into)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [conv(level) for conv, level in zip(self.lateral, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[-2:])
        outputs = [conv(level) for conv, level in zip(self.output, levels, strict=True)]
        deepest = maps[-1]
        for conv in self.extra:
            deepest = conv(deepest)
            outputs.append(deepest)
        return outputs


def tower(*last: nn.Module) -> nn.Sequential:
    convs = [layer for _ in range(4) for layer in (nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*convs, *last)


class RetinaNet(nn.Module):
    """RetinaNet's pyramid and heads over the last three maps of a backbone."""

    def __init__(self, backbone: nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.backbone, self.fpn = backbone, Pyramid(channels[1:], extra=True)
        self.scores = tower(nn.Conv2d(WIDTH, ANCHORS * CLASSES, 3, padding=1))
        self.boxes = tower(nn.Conv2d(WIDTH, ANCHORS * 4, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [head(level) for level in self.fpn(self.backbone(x)[1:]) for head in (self.scores, self.boxes)]


class MaskRCNN(nn.Module):
    """Mask R-CNN's pyramid and heads over all maps of a backbone; the regions are made up."""

    def __init__(self, backbone: nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.backbone, self.fpn = backbone, Pyramid(channels, extra=False)
        self.rpn = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU())
        self.objectness, self.proposals = nn.Conv2d(WIDTH, 3, 1), nn.Conv2d(WIDTH, 12, 1)
        self.box = nn.Sequential(nn.Linear(WIDTH * 49, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU())
        self.scores, self.boxes = nn.Linear(1024, CLASSES + 1), nn.Linear(1024, 4 * CLASSES)
        self.mask = tower(nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2), nn.ReLU(), nn.Conv2d(WIDTH, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.fpn(self.backbone(x))
        for level in (*maps, F.max_pool2d(maps[-1], 1, 2)):
            shared = self.rpn(level)
            self.objectness(shared), self.proposals(shared)
        regions = self.box(x.new_empty(1000, WIDTH * 49))
        self.scores(regions), self.boxes(regions)
        return self.mask(x.new_empty(100, WIDTH, 14, 14))


def flops_of(model: nn.Module) -> float:
    """In 10^9, for one image of 1280 x 800; the model is on the meta device."""
    total = 0

    def count(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.ConvTranspose2d):
            total += args[0].numel() * prod(module.weight.shape[1:]) + output.numel()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            total += output.numel() * (prod(module.weight.shape[1:]) + (module.bias is not None))
        elif isinstance(module, nn.BatchNorm2d):
            total += 2 * output.numel()
        elif isinstance(module, nn.ReLU):
            total += output.numel()

    handles = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model(torch.empty(1, 3, 800, 1280, device="meta"))
    for handle in handles:
        handle.remove()
    return total / 1e9


def detector(make: Callable[[nn.Module, list[int]], nn.Module], size: str, *, expansion: int = 4) -> nn.Module:
    with torch.device("meta"):
        config = dataclasses.replace(mpvit.CONFIGS[size], expansion=expansion)
        backbone = mpvit.MPViT(config, None).eval()
        channels = [level.shape[1] for level in backbone(torch.empty(1, 3, 64, 64))]
        return make(backbone, channels).eval()


PUBLISHED = {  # parameters in 10^6 and FLOPs in 10^9: Lee et al., MPViT, CVPR 2022, the tables of detectors
    ("tiny", RetinaNet): (17, 196),
    ("xsmall", RetinaNet): (20, 211),
    ("small", RetinaNet): (32, 248),
    ("base", RetinaNet): (85, 482),
    ("tiny", MaskRCNN): (28, 216),
    ("xsmall", MaskRCNN): (30, 231),
    ("small", MaskRCNN): (43, 268),
    ("base", MaskRCNN): (95, 503),
}


@pytest.mark.parametrize(("size", "make"), PUBLISHED, ids=lambda value: getattr(value, "__name__", value))
def test_parameters_and_flops_are_those_of_the_published_tables(size: str, make: type[nn.Module]) -> None:
    """The tiny one's are those of perceptrons as wide as the other sizes have them (4), not of its classifier's (2)."""
    model = detector(make, size)
    parameters, flops = PUBLISHED[size, make]
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.5)
    assert flops_of(model) == pytest.approx(flops, abs=0.75)


def test_the_tiny_classifier_under_a_detector_is_smaller_than_the_published_one() -> None:
    model = detector(RetinaNet, "tiny", expansion=mpvit.CONFIGS["tiny"].expansion)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(15.1, abs=0.05)
