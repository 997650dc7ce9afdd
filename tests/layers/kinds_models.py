"""Small twins of the blocks that families of networks are made of, in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(into: int, out: int, kernel: int = 1, groups: int = 1, stride: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm and, if asked for, SiLU."""
    layers = [nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, *([nn.SiLU()] if act else []))


class Bottleneck(nn.Module):
    """YOLO's: the add stands behind the activation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(width, width, 3), conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class Merged(nn.Module):
    """Two convolutions and whatever joins their result with what they read."""

    def __init__(self, width: int, merge: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = conv(width, width, 3), conv(width, width, act=False)
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(x, self.last(self.first(x)))


class C2f(nn.Module):
    """A split, bottlenecks on one half, all that was computed concatenated."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(into, 2 * width), conv(4 * width, into)
        self.m = nn.ModuleList(Bottleneck(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class C3(nn.Module):
    """Two branches from one input, a single 1x1 beside the longer one."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = conv(into, width), conv(into, width), conv(2 * width, into)
        self.m = Bottleneck(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Elan(nn.Module):
    """Layers one after another, and their results concatenated."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(into, width), conv(into, width)
        self.cv3, self.cv4 = conv(width, width, 3), conv(width, width, 3)
        self.cv5 = conv(4 * width, into)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.cv1(x), self.cv2(x)
        third = self.cv3(second)
        return self.cv5(torch.cat((first, second, third, self.cv4(third)), 1))


class Branches(nn.Module):
    """Parallel branches and a 1x1 over them, as in ASPP."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(into, width, kernel) for kernel in (1, 3, 5))
        self.project = conv(3 * width, into)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([branch(x) for branch in self.convs], 1))


class Pyramid(nn.Module):
    """An encoder and a decoder that concatenates what the encoder made on the same level."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.down, self.up, self.fuse = conv(into, width, 3, stride=2), conv(width, width, 3), conv(into + width, into)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat((x, F.interpolate(self.up(self.down(x)), scale_factor=2.0)), 1))


class Inverted(nn.Module):
    """An inverted residual with squeeze and excitation, with or without its skip connection."""

    def __init__(self, width: int, *, skips: bool) -> None:
        super().__init__()
        out = width if skips else 2 * width
        self.expand, self.dw = conv(width, 4 * width), conv(4 * width, 4 * width, 3, groups=4 * width)
        self.fc1, self.fc2 = nn.Conv2d(4 * width, width, 1), nn.Conv2d(width, 4 * width, 1)
        self.project, self.skips = conv(4 * width, out, act=False), skips

    def forward(self, x: Tensor) -> Tensor:
        y = self.dw(self.expand(x))
        y = self.project(y * torch.sigmoid(self.fc2(F.relu(self.fc1(y.mean((2, 3), keepdim=True))))))
        return x + y if self.skips else y


class ConvNext(nn.Module):
    """Depthwise first, then two linear layers or two 1x1 with an activation between."""

    def __init__(self, width: int, *, linear: bool) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.linear = linear
        self.fc1: nn.Module = nn.Linear(width, 4 * width) if linear else nn.Conv2d(width, 4 * width, 1)
        self.fc2: nn.Module = nn.Linear(4 * width, width) if linear else nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        if self.linear:
            return x + self.fc2(F.gelu(self.fc1(y))).permute(0, 3, 1, 2)
        return x + self.fc2(F.gelu(self.fc1(y.permute(0, 3, 1, 2))))


class Attention(nn.Module):
    """Attention and an MLP: in shifted windows with a bias from positions, with keys of a smaller image, or plain."""

    def __init__(self, width: int, *, shift: int = 0, reduce: bool = False, biased: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj, self.fc1, self.fc2 = (
            nn.Linear(width, width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.sr = nn.Conv2d(width, width, 2, 2) if reduce else None
        self.bias = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1)) if biased else None
        self.shift = shift
        self.register_buffer("places", torch.rand(16, 16, 2))

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, _ = x.shape
        rows = torch.roll(x, (self.shift, self.shift), (2, 3)) if self.shift else x
        tokens = rows.flatten(2).transpose(1, 2)
        keys = tokens if self.sr is None else self.sr(rows).flatten(2).transpose(1, 2)
        weights = self.q(tokens) @ self.k(keys).transpose(1, 2) / width**0.5
        if self.bias is not None:
            weights = weights + self.bias(self.places).squeeze(-1)
        y = self.proj(weights.softmax(-1) @ self.v(keys)).transpose(1, 2).reshape(batch, width, height, -1)
        x = x + (torch.roll(y, (-self.shift, -self.shift), (2, 3)) if self.shift else y)
        return x + self.fc2(F.gelu(self.fc1(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


class Deformable(nn.Module):
    """Deformable attention: values read at computed places, and weighted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.offsets, self.weights = (nn.Linear(width, out) for out in (width, 8, 4))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, across = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        value = self.value(tokens).transpose(1, 2).reshape(batch, width, height, across)
        places = self.offsets(tokens).reshape(batch, height * across, 4, 2)
        samples = F.grid_sample(value, places, align_corners=False)
        mixed = (samples * self.weights(tokens).softmax(-1).unsqueeze(1)).sum(-1)
        return x + self.output(mixed.transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class Queries(nn.Module):
    """A decoder whose queries are parameters, with masks as products of what it found and a map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.rand(1, 5, width))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.pixels, self.embed = nn.Conv2d(width, width, 1), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        attended = F.scaled_dot_product_attention(self.q(self.queries), self.k(tokens), self.v(tokens))
        return self.embed(self.o(attended)) @ self.pixels(x).flatten(2)


class TwoLevels(nn.Module):
    """LR-ASPP's head: scores of two levels are added, the deeper ones behind a gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.low, self.deeper = (
            conv(3, width, 3),
            nn.Sequential(Inverted(width, skips=True), conv(width, width, 3, stride=2)),
        )
        self.cbr, self.scale = conv(width, width), nn.Conv2d(width, width, 1)
        self.low_scores, self.high_scores = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        high = self.deeper(low)
        high = self.cbr(high) * torch.sigmoid(self.scale(high.mean((2, 3), keepdim=True)))
        return self.low_scores(low) + self.high_scores(F.interpolate(high, scale_factor=2.0))


class Levels(nn.Module):
    """Feature maps that are returned and read on, and boxes that a second stage reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features, self.deeper = conv(3, width, 3), conv(width, width, 3)
        self.boxes, self.refine = nn.Conv2d(width, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(x)
        boxes = self.boxes(self.deeper(features))
        return features, boxes, self.refine(boxes.sigmoid())
