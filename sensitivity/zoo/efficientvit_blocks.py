"""The building blocks of EfficientViT: convolutions, residuals and linear attention.

Attribute names are those of the published checkpoints, so that their state dicts load with ``strict=True``.

Source:
    Cai et al., *EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction*, ICCV 2023; the
    reference program is ``mit-han-lab/efficientvit``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-6
"""Of every norm: the published SAM weights were trained with it, not with torch's 1e-5."""

ATTENTION_EPSILON = 1e-15


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every pixel of an image tensor.

    Args:
        channels: C, the number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPSILON)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)`` to the same shape."""
        centred = input - input.mean(dim=1, keepdim=True)
        normalised = centred / torch.sqrt(centred.square().mean(dim=1, keepdim=True) + self.eps)
        return normalised * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class ConvLayer(nn.Module):
    """A convolution that keeps the resolution (or divides it by the stride), then maybe batch norm, then maybe GELU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd side of the square kernel in pixels.
        stride: step in pixels.
        groups: channel groups; ``in_channels`` makes it depthwise.
        bias: whether the convolution has a bias.
        norm: whether batch norm follows.
        act: whether tanh-approximated GELU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
        act: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=NORM_EPSILON) if norm else None
        self.act = nn.GELU(approximate="tanh") if act else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``, rounded up."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.act is not None:
            x = self.act(x)
        return x


class ResBlock(nn.Module):
    """Two 3x3 convolutions with an activation between them.

    Args:
        channels: of the input, the middle and the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, 3, act=True)
        self.conv2 = ConvLayer(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to the same shape."""
        out: Tensor = self.conv2(self.conv1(x))
        return out


class FusedMBConv(nn.Module):
    """A 3x3 convolution to a wider hidden layer and a 1x1 convolution back ("fmb").

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the 3x3 convolution.
        expansion: hidden channels by input channels.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.spatial_conv = ConvLayer(in_channels, hidden, 3, stride=stride, act=True)
        self.point_conv = ConvLayer(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        out: Tensor = self.point_conv(self.spatial_conv(x))
        return out


class MBConv(nn.Module):
    """Inverted bottleneck of 1x1 expansion, 3x3 depthwise and 1x1 exit; only the exit has a norm ("mb").

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the depthwise convolution.
        expansion: hidden channels by input channels.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.inverted_conv = ConvLayer(in_channels, hidden, 1, bias=True, norm=False, act=True)
        self.depth_conv = ConvLayer(hidden, hidden, 3, stride=stride, groups=hidden, bias=True, norm=False, act=True)
        self.point_conv = ConvLayer(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        out: Tensor = self.point_conv(self.depth_conv(self.inverted_conv(x)))
        return out


class LiteMLA(nn.Module):
    """Multi-scale attention with a ReLU kernel instead of softmax, so that its cost is linear in the pixels.

    Every head sees the projected pixels once as they are and once aggregated over their neighbourhood.

    Args:
        channels: of input and output, a multiple of ``head_channels``.
        head_channels: channels of one head's query, key and value.
        kernel_size: side in pixels of the neighbourhood that is aggregated.
    """

    def __init__(self, channels: int, *, head_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        total = 3 * channels
        self.qkv = ConvLayer(channels, total, 1, norm=False)
        depthwise = nn.Conv2d(total, total, kernel_size, padding=kernel_size // 2, groups=total, bias=False)
        pointwise = nn.Conv2d(total, total, 1, groups=total // head_channels, bias=False)
        self.aggreg = nn.ModuleList([nn.Sequential(depthwise, pointwise)])
        self.kernel_func = nn.ReLU()
        self.proj = ConvLayer(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to the same shape."""
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(aggregate(qkv) for aggregate in self.aggreg)], dim=1)
        height, width = qkv.shape[-2:]
        with _without_autocast(qkv.device):
            attend = self.attend_linearly if height * width > self.head_channels else self.attend_quadratically
            attended = attend(at_least_float32(qkv)).to(qkv.dtype)
        out: Tensor = self.proj(attended)
        return out

    def attend_linearly(self, qkv: Tensor) -> Tensor:
        """Attend at a cost linear in the number of pixels.

        Args:
            qkv: ``(N, 3 * heads * head_channels, H, W)``, at least float32: half precision overflows in the sums.

        Returns:
            ``(N, heads * head_channels, H, W)``.
        """
        query, key, value = self._split(qkv)
        # a row of ones below the values makes the same product yield the normaliser, the sum of the weights
        value = F.pad(value, (0, 0, 0, 1), value=1.0)
        summed = torch.matmul(torch.matmul(value, key.transpose(-1, -2)), query)
        attended = summed[:, :, :-1] / (summed[:, :, -1:] + ATTENTION_EPSILON)
        return attended.reshape(len(qkv), -1, *qkv.shape[-2:])

    def attend_quadratically(self, qkv: Tensor) -> Tensor:
        """Attend at a cost quadratic in the number of pixels, cheaper for the smallest maps; same result.

        Args:
            qkv: ``(N, 3 * heads * head_channels, H, W)``, at least float32.

        Returns:
            ``(N, heads * head_channels, H, W)``.
        """
        query, key, value = self._split(qkv)
        weights = torch.matmul(key.transpose(-1, -2), query)
        weights = weights / (weights.sum(dim=2, keepdim=True) + ATTENTION_EPSILON)
        return torch.matmul(value, weights).reshape(len(qkv), -1, *qkv.shape[-2:])

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query and key after the kernel function, and value, each ``(N, heads, head_channels, H * W)``."""
        batch, _, height, width = qkv.shape
        heads = qkv.reshape(batch, -1, 3 * self.head_channels, height * width)
        query, key, value = heads.chunk(3, dim=2)
        return self.kernel_func(query), self.kernel_func(key), value


class Residual(nn.Module):
    """A block whose input is added to its output, unless ``skip`` is off (where the shapes differ).

    Args:
        main: the block.
        skip: whether the input is added.
    """

    def __init__(self, main: nn.Module, *, skip: bool = True) -> None:
        super().__init__()
        self.main = main
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Return ``main(x) + x``, or ``main(x)``."""
        out: Tensor = self.main(x)
        return out + x if self.skip else out


class AttentionBlock(nn.Module):
    """Global context from :class:`LiteMLA`, then local detail from :class:`MBConv`, each residual ("att").

    Args:
        channels: of input and output.
        head_channels: channels of an attention head.
        kernel_size: of the attention's aggregation.
        expansion: of the MBConv.
    """

    def __init__(self, channels: int, *, head_channels: int, kernel_size: int, expansion: int) -> None:
        super().__init__()
        attention = LiteMLA(channels, head_channels=head_channels, kernel_size=kernel_size)
        self.context_module = Residual(attention)
        self.local_module = Residual(MBConv(channels, channels, expansion=expansion))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to the same shape."""
        out: Tensor = self.local_module(self.context_module(x))
        return out


def at_least_float32(x: Tensor) -> Tensor:
    """Cast half precision to float32 and leave wider dtypes as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off where it is on; where it is off, leave no trace of it in an exported graph."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
