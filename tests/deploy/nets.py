"""Small nets in the shapes of well-known ones, with random weights and batch norms that have seen data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv

assert sv.INT8.weights is not None
SAFE_INT8 = replace(sv.INT8, name="safe int8", weights=replace(sv.INT8.weights, format="int7"))
"""``sv.INT8`` with weight codes of at most 63: no CPU's sums saturate, as 2 * 255 * 63 < 2**15."""

SAFE = sv.Scheme.all(SAFE_INT8)


def has_amx() -> bool:
    """Whether OpenVINO computes in AMX tiles here."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "amx_int8" in flags.read_text(encoding="utf-8") and "ONEDNN_MAX_CPU_ISA" not in os.environ


def conv(read: int, write: int, side: int = 3, stride: int = 1, groups: int = 1, act: nn.Module | None = None):
    layers = [nn.Conv2d(read, write, side, stride, side // 2, groups=groups, bias=False), nn.BatchNorm2d(write)]
    return nn.Sequential(*layers, *([act] if act is not None else []))


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut, as in resnet18."""

    def __init__(self, read: int, write: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv(read, write, 3, stride, act=nn.ReLU())
        self.second = conv(write, write)
        self.shortcut = conv(read, write, 1, stride) if stride > 1 or read != write else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.second(self.first(x)) + identity)


class Resnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv(3, 16, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Basic(16, 16), Basic(16, 16), Basic(16, 32, 2), Basic(32, 32), Basic(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 8, 1)
        self.expand = nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(pooled))))


class Inverted(nn.Module):
    """Expand, depthwise, gate, project; as in mobilenet_v3."""

    def __init__(self, read: int, middle: int, write: int, stride: int = 1, side: int = 3, gate: bool = False) -> None:
        super().__init__()
        self.expand = conv(read, middle, 1, act=nn.Hardswish())
        self.depthwise = conv(middle, middle, side, stride, groups=middle, act=nn.Hardswish())
        self.gate = Gate(middle) if gate else nn.Identity()
        self.project = conv(middle, write, 1)
        self.adds = stride == 1 and read == write

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + out if self.adds else out


class Mobilenet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2, act=nn.Hardswish())
        self.blocks = nn.Sequential(
            Inverted(16, 64, 24, 2),
            Inverted(24, 72, 24),
            Inverted(24, 72, 40, 2, 5, gate=True),
            Inverted(40, 120, 40, 1, 5, gate=True),
        )
        self.last = conv(40, 96, 1, act=nn.Hardswish())
        self.head = nn.Sequential(nn.Linear(96, 64), nn.Hardswish(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))


class LinearAttention(nn.Module):
    """ReLU linear attention with a grouped aggregation, as in EfficientViT."""

    def __init__(self, channels: int, dim: int = 16) -> None:
        super().__init__()
        self.dim = dim
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 5, padding=2, groups=3 * channels, bias=False)
        self.pointwise = nn.Conv2d(3 * channels, 3 * channels, 1, groups=3 * channels // dim, bias=False)
        self.proj = conv(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, self.pointwise(self.depthwise(qkv))], 1)
        query, key, value = qkv.reshape(batch, -1, 3 * self.dim, height * width).chunk(3, 2)
        query, key = F.relu(query), F.relu(key)
        value = F.pad(value, (0, 0, 0, 1), value=1.0)
        out = (value @ key.transpose(-1, -2)) @ query
        out = out[:, :, :-1] / (out[:, :, -1:] + 1e-6)
        return x + self.proj(out.reshape(batch, -1, height, width))


class Efficientvit(nn.Module):
    """MBConv and linear attention, with a dense head."""

    def __init__(self) -> None:
        super().__init__()
        gelu = lambda: nn.GELU(approximate="tanh")  # noqa: E731
        self.stem = conv(3, 16, 3, 2, act=gelu())
        self.down = nn.Sequential(conv(16, 64, 1, act=gelu()), conv(64, 64, 3, 2, 64, gelu()), conv(64, 32, 1))
        self.attention = LinearAttention(32)
        self.local = nn.Sequential(conv(32, 128, 1, act=gelu()), conv(128, 128, 3, 1, 128, gelu()), conv(128, 32, 1))
        self.head = nn.Conv2d(32, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.down(self.stem(x)))
        return self.head(x + self.local(x))


class SharedHead(nn.Module):
    """A head shared over two levels, and outputs in a dict: per-call ranges and the model's own structure."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = conv(3, 16, 3, 2, act=nn.ReLU())
        self.coarse = conv(16, 16, 3, 2, act=nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.tower = nn.Conv2d(16, 16, 3, padding=1)
        self.score = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> dict[str, object]:
        fine = self.fine(x)
        coarse = self.coarse(fine) * 3
        scores = [self.score(F.relu(self.tower(level))) for level in (fine, coarse)]
        return {"scores": scores, "up": (self.up(coarse), "text"), "none": None}


class Attention(nn.Module):
    """torch's own attention between two linear layers: its projections are no modules that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(16, 32), nn.Linear(32, 8)
        self.attend = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        return self.leave(y + self.attend(y, y, y, need_weights=False)[0])


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": Resnet,
    "mobilenet_v3": Mobilenet,
    "efficientvit": Efficientvit,
}


def images(count: int, seed: int = 0, side: int = 64) -> Tensor:
    """Smooth random images, (N, 3, side, side) float32, closer to photographs than white noise."""
    random = torch.randn(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(random, size=(side, side), mode="bilinear", align_corners=False)


@torch.no_grad()
def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A net with random weights whose norms have seen data, in eval mode."""
    torch.manual_seed(seed)
    net = make().train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.3, 0.3)
            module.momentum = None
    for batch in range(3):
        net(images(8, seed=100 + batch))
    return net.eval()


class Several(nn.Module):
    """A backbone, a head that no exporter can write, and a method of its own."""

    anchors = 3

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.pick = Picky()

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(self.backbone(x))

    def encode(self, x: Tensor) -> Tensor:
        return self.backbone(x) * 2


class Picky(nn.Module):
    """Uses an operator that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + torch.special.bessel_j0(x))
