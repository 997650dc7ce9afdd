"""Attention in its many spellings."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, conv_norm_act, image, layer


class Patches(nn.Module):
    """Patch embedding, learned positions, one module over the tokens, and a head on their mean."""

    def __init__(self, *body: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.body(x).mean(1))


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` in a residual, norm first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.attention(y, y, y, need_weights=False)[0]


class VisionBlock(nn.Module):
    """The block of a vision transformer with fused attention."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class SoftmaxAttention(nn.Module):
    """Attention over pixels written out: 1x1 convolutions, two matrix products and a softmax between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 8)
        self.qkv = nn.Conv2d(8, 24, 1)
        self.proj = nn.Conv2d(8, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = self.qkv(x).flatten(2).chunk(3, dim=1)
        weights = torch.softmax(torch.einsum("ncq,nck->nqk", q, k) * 8**-0.5, dim=-1)
        mixed = (v @ weights.transpose(-2, -1)).reshape(x.shape)
        return self.head(x + self.norm(self.proj(mixed)))


class LinearAttention(nn.Module):
    """EfficientViT's multi-scale attention: ReLU instead of softmax, and a second scale by grouped convolutions."""

    def __init__(self, channels: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.dim = channels // heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.aggregation = nn.Sequential(
            nn.Conv2d(3 * channels, 3 * channels, 5, padding=2, groups=3 * channels, bias=False),
            nn.Conv2d(3 * channels, 3 * channels, 1, groups=3 * heads, bias=False),
        )
        self.proj = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        qkv = self.qkv(x)
        both = torch.cat([qkv, self.aggregation(qkv)], dim=1).reshape(n, -1, 3 * self.dim, h * w)
        q, k, v = both[:, :, : self.dim], both[:, :, self.dim : 2 * self.dim], both[:, :, 2 * self.dim :]
        q, k = F.relu(q), F.relu(k)
        v = F.pad(v, (0, 0, 0, 1), mode="constant", value=1.0)
        out = torch.matmul(torch.matmul(v, k.transpose(-1, -2)), q)
        out = out[:, :, :-1] / (out[:, :, -1:] + 1e-15)
        return x + self.norm(self.proj(out.reshape(n, -1, h, w)))


class DepthwiseBlock(nn.Module):
    """An inverted residual whose first two convolutions have bias instead of norm."""

    def __init__(self, channels: int = 8, middle: int = 24) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, middle, 1)
        self.depthwise = nn.Conv2d(middle, middle, 3, padding=1, groups=middle)
        self.project = nn.Conv2d(middle, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.project(self.act(self.depthwise(self.act(self.expand(x))))))


def make_efficientvit() -> nn.Module:
    return nn.Sequential(conv_norm_act(3, 8), LinearAttention(), DepthwiseBlock(), nn.Conv2d(8, 2, 1))


class CrossAttention(nn.Module):
    """Queries come from one input, keys and values from another."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        q, k, v = self.q_proj(queries), self.k_proj(memory), self.v_proj(memory)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        return queries + self.out_proj(weights @ v)


def make_encoder(*, norm_first: bool, frozen: bool) -> nn.Module:
    block = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=norm_first)
    return Patches(block).requires_grad_(not frozen)


ENCODER_LAYERS = (
    layer("embed", None, None, "stem"),
    layer("body.0.linear1", None, "ReLU"),
    layer("body.0.linear2", None, None, "exit", role="exit"),
    layer("head", None, None, "output"),
)
ENCODER_EITHER = frozenset({"body.0.self_attn", "body.0.self_attn.out_proj"})

CASES = (
    Case(
        "multihead_attention",
        lambda: Patches(SelfAttention()),
        image(),
        (layer("embed", None, None, "stem"), layer("head", None, None, "output")),
        either=frozenset({"body.0.attention", "body.0.attention.out_proj"}),
    ),
    *(
        Case(
            f"encoder_layer_{'norm_first' if norm_first else 'norm_last'}_{'frozen' if frozen else 'trainable'}",
            partial(make_encoder, norm_first=norm_first, frozen=frozen),
            image(),
            ENCODER_LAYERS,
            either=ENCODER_EITHER,
        )
        for norm_first in (False, True)
        for frozen in (False, True)
    ),
    Case(
        "vision_transformer",
        lambda: Patches(VisionBlock(), VisionBlock()),
        image(),
        (
            layer("embed", None, None, "stem"),
            *(
                part
                for i in range(2)
                for part in (
                    layer(f"body.{i}.qkv", None, None, kind="att", role="qkv"),
                    layer(f"body.{i}.proj", None, None, kind="att", role="proj"),
                    layer(f"body.{i}.fc1", None, "GELU"),
                    layer(f"body.{i}.fc2", None, None, "exit", role="exit"),
                )
            ),
            layer("head", None, None, "output"),
        ),
    ),
    Case(
        "softmax_attention",
        SoftmaxAttention,
        image(8),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("qkv", None, None, kind="att", role="qkv"),
            layer("proj", "BatchNorm2d", None, kind="att", role="proj"),
            layer("head", None, None, "output"),
        ),
    ),
    Case(
        "linear_attention",
        make_efficientvit,
        image(8),
        (
            layer("0.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("1.qkv", None, None, kind="att", role="qkv"),
            layer("1.aggregation.0", None, None, "depthwise", kind="att", role="scale-depthwise"),
            layer("1.aggregation.1", None, None, "attention-pointwise", kind="att", role="scale-pointwise"),
            layer("1.proj", "BatchNorm2d", None, kind="att", role="proj"),
            layer("2.expand", None, "GELU(tanh)", role="expand"),
            layer("2.depthwise", None, "GELU(tanh)", "depthwise", role="depthwise"),
            layer("2.project", "BatchNorm2d", None, "exit", role="exit"),
            layer("3", None, None, "output"),
        ),
    ),
    Case(
        "cross_attention",
        CrossAttention,
        lambda: (torch.randn(1, 4, 8), torch.randn(1, 6, 8)),
        (
            layer("q_proj", None, None, "stem", kind="att"),
            layer("k_proj", None, None, "stem", kind="att"),
            layer("v_proj", None, None, "stem", kind="att"),
            layer("out_proj", None, None, "output", kind="att"),
        ),
    ),
)
