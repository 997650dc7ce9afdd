"""MPViT: a convolution and attention backbone with several paths a stage, in its four published sizes.

::

    model = build("small")                # (N, 3, H, W) -> (N, 1000)
    backbone = build("small", classes=None)   # (N, 3, H, W) -> [(N, C, H / 4, W / 4), ..., (N, C, H / 32, W / 32)]

A stage embeds its input once for each path, each embedding seeing a wider neighbourhood than the one before. A path is
a row of transformer blocks with factorized attention; one more path is a residual bottleneck of convolutions. A
pointwise convolution joins the paths. Positions are encoded by depthwise convolutions that all blocks of a path share.

Source:
    Lee et al., *MPViT: Multi-Path Vision Transformer for Dense Prediction*, CVPR 2022, figures 2 and 3 and table 1; the
    attention is that of Xu et al., *Co-Scale Conv-Attentional Image Transformers*, ICCV 2021, equations 3 to 6. Keys
    and shapes of the state dict are those of the published checkpoints. Stochastic depth, which only training needs, is
    left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensitivity.errors import ModelError
from sensitivity.zoo.checkpoints import Mismatch, read_state_dict

HEADS = 8
WINDOWS = ((3, 2), (5, 3), (7, 3))
"""Side of each window of the relative position encoding, and how many of the eight heads use it."""


@dataclass(frozen=True, kw_only=True)
class MPViTConfig:
    """The numbers that make one MPViT differ from another.

    Args:
        widths: channels of each stage.
        depths: transformer blocks in each path of a stage.
        paths: transformer paths of each stage.
        expansion: hidden channels by channels in the perceptrons.
    """

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    expansion: int
    paths: tuple[int, int, int, int] = (2, 3, 3, 3)


CONFIGS = MappingProxyType(
    {
        "tiny": MPViTConfig(widths=(64, 96, 176, 216), depths=(1, 2, 4, 1), expansion=2),
        "xsmall": MPViTConfig(widths=(64, 128, 192, 256), depths=(1, 2, 4, 1), expansion=4),
        "small": MPViTConfig(widths=(64, 128, 216, 288), depths=(1, 3, 6, 3), expansion=4),
        "base": MPViTConfig(widths=(128, 224, 368, 480), depths=(1, 3, 8, 3), expansion=4),
    }
)
"""The published sizes by name."""


class MPViT(nn.Module):
    """The backbone, with a classifier or without.

    Args:
        config: the sizes.
        classes: outputs of the classifier; None leaves it out.
    """

    def __init__(self, config: MPViTConfig, classes: int | None = 1000) -> None:
        super().__init__()
        widths = config.widths
        self.config = config
        self.stem = nn.Sequential(
            ConvNorm(3, widths[0] // 2, 3, stride=2, activation=nn.Hardswish()),
            ConvNorm(widths[0] // 2, widths[0], 3, stride=2, activation=nn.Hardswish()),
        )
        self.patch_embed_stages = nn.ModuleList(
            PatchEmbeddings(width, paths, stride=2 if stage else 1)
            for stage, (width, paths) in enumerate(zip(widths, config.paths, strict=True))
        )
        self.mhca_stages = nn.ModuleList(
            MultiPathStage(width, following, paths=paths, depth=depth, expansion=config.expansion)
            for width, following, paths, depth in zip(
                widths, (*widths[1:], widths[-1]), config.paths, config.depths, strict=True
            )
        )
        if classes is not None:
            self.cls_head = Classifier(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Classify images, or give the maps of the four stages where there is no classifier.

        Args:
            images: ``(N, 3, H, W)``; H and W of at least 32.

        Returns:
            Logits ``(N, classes)``, or four maps ``(N, C, h, w)`` at strides 4, 8, 16 and 32.
        """
        x = self.stem(images)
        maps = []
        for embeddings, stage in zip(self.patch_embed_stages, self.mhca_stages, strict=True):
            x = stage(embeddings(x))
            maps.append(x)
        if not hasattr(self, "cls_head"):
            return maps
        logits: Tensor = self.cls_head(x)
        return logits


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and an activation where one is given."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act_layer = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H / stride, W / stride)``."""
        y: Tensor = self.act_layer(self.bn(self.conv(x)))
        return y


class SeparableConvNorm(nn.Module):
    """Depthwise and pointwise convolution, batch norm, Hardswish."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.pwconv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, H / stride, W / stride)``."""
        y: Tensor = self.act(self.bn(self.pwconv(self.dwconv(x))))
        return y


class PatchEmbedding(nn.Module):
    """One embedding of a stage's input."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.patch_conv = SeparableConvNorm(channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """As ``SeparableConvNorm``."""
        y: Tensor = self.patch_conv(x)
        return y


class PatchEmbeddings(nn.Module):
    """Embeddings of a stage, one for each path; each reads the one before, so that neighbourhoods widen."""

    def __init__(self, channels: int, paths: int, *, stride: int) -> None:
        super().__init__()
        self.patch_embeds = nn.ModuleList(PatchEmbedding(channels, 1 if path else stride) for path in range(paths))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Embed ``(N, C, H, W)`` once for each path."""
        embedded = []
        for embedding in self.patch_embeds:
            x = embedding(x)
            embedded.append(x)
        return embedded


class PositionEncoding(nn.Module):
    """Adds a depthwise convolution of the tokens, seen as a map, to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Map ``(N, H * W, C)`` to the same shape; ``size`` is (H, W)."""
        x = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *size)
        encoded: Tensor = self.proj(x) + x
        return encoded.flatten(2).transpose(1, 2)


class RelativePositionEncoding(nn.Module):
    """Queries times a depthwise convolution of the values, with a window that depends on the head."""

    def __init__(self, head_channels: int) -> None:
        super().__init__()
        self.channels = [heads * head_channels for _, heads in WINDOWS]
        self.conv_list = nn.ModuleList(
            nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)
            for channels, (side, _) in zip(self.channels, WINDOWS, strict=True)
        )

    def forward(self, queries: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
        """Map two tensors ``(N, heads, H * W, c)`` to one of that shape; ``size`` is (H, W)."""
        image = values.transpose(2, 3).reshape(values.shape[0], -1, *size)
        parts = [conv(part) for conv, part in zip(self.conv_list, torch.split(image, self.channels, 1), strict=True)]
        batch, heads, _, channels = queries.shape
        return queries * torch.cat(parts, 1).reshape(batch, heads, channels, -1).transpose(2, 3)


class FactorizedAttention(nn.Module):
    """Attention with the softmax over the keys alone, so that its cost grows linearly with the number of tokens."""

    def __init__(self, channels: int, crpe: RelativePositionEncoding) -> None:
        super().__init__()
        self.scale = (channels // HEADS) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.crpe = crpe

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Map ``(N, H * W, C)`` to the same shape; ``size`` is (H, W)."""
        batch, length, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, HEADS, channels // HEADS)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        attended = queries @ (keys.softmax(dim=2).transpose(2, 3) @ values)
        x = self.scale * attended + self.crpe(queries, values, size)
        projected: Tensor = self.proj(x.transpose(1, 2).flatten(2))
        return projected


class Perceptron(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(N, L, C)`` to the same shape."""
        y: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return y


class TransformerBlock(nn.Module):
    """Position encoding, attention and perceptron, each added to what it read; the encodings are the path's."""

    def __init__(self, channels: int, expansion: int, cpe: PositionEncoding, crpe: RelativePositionEncoding) -> None:
        super().__init__()
        self.cpe = cpe
        self.crpe = crpe
        self.factoratt_crpe = FactorizedAttention(channels, crpe)
        self.mlp = Perceptron(channels, expansion * channels)
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Map ``(N, H * W, C)`` to the same shape; ``size`` is (H, W)."""
        x: Tensor = self.cpe(tokens, size)
        x = x + self.factoratt_crpe(self.norm1(x), size)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class TransformerPath(nn.Module):
    """Transformer blocks in a row that share their position encodings."""

    def __init__(self, channels: int, depth: int, expansion: int) -> None:
        super().__init__()
        self.cpe = PositionEncoding(channels)
        self.crpe = RelativePositionEncoding(channels // HEADS)
        self.MHCA_layers = nn.ModuleList(
            TransformerBlock(channels, expansion, self.cpe, self.crpe) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        size = (x.shape[2], x.shape[3])
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.MHCA_layers:
            tokens = block(tokens, size)
        return tokens.transpose(1, 2).reshape(x.shape)


class ConvolutionPath(nn.Module):
    """Residual bottleneck with a depthwise convolution, for what is local."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, activation=nn.Hardswish())
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.Hardswish()
        self.conv2 = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        y: Tensor = x + self.conv2(self.act(self.norm(self.dwconv(self.conv1(x)))))
        return y


class MultiPathStage(nn.Module):
    """The paths of a stage and the pointwise convolution that joins them."""

    def __init__(self, channels: int, outputs: int, *, paths: int, depth: int, expansion: int) -> None:
        super().__init__()
        self.mhca_blks = nn.ModuleList(TransformerPath(channels, depth, expansion) for _ in range(paths))
        self.InvRes = ConvolutionPath(channels)
        self.aggregate = ConvNorm(channels * (paths + 1), outputs, activation=nn.Hardswish())

    def forward(self, embedded: list[Tensor]) -> Tensor:
        """Map one ``(N, C, H, W)`` for each path to ``(N, outputs, H, W)``; the convolutions read the first."""
        outputs = [self.InvRes(embedded[0])]
        outputs += [path(x) for path, x in zip(self.mhca_blks, embedded, strict=True)]
        joined: Tensor = self.aggregate(torch.cat(outputs, dim=1))
        return joined


class Classifier(nn.Module):
    """A linear layer on the mean of the last map."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.cls = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to logits ``(N, classes)``."""
        logits: Tensor = self.cls(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def build(name: str, *, classes: int | None = 1000, device: str | torch.device = "cpu") -> MPViT:
    """Make a model with random weights, in evaluation mode.

    Args:
        name: "tiny", "xsmall", "small" or "base".
        classes: outputs of the classifier; None gives the backbone alone, which returns the maps of its four stages.
        device: where the weights are made; on "meta" they take no memory and only shapes can be computed.

    Raises:
        ModelError: no model has this name, or ``classes`` is not a whole number above zero.
    """
    if name not in CONFIGS:
        raise ModelError(f"no MPViT is called name={name!r}. Choose one of: {', '.join(map(repr, CONFIGS))}.")
    if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or classes < 1):
        raise ModelError(f"classes={classes!r} is no number of classes. Give a whole number from 1 on, or None.")
    with torch.device(device):
        return MPViT(CONFIGS[name], classes).eval()


def load(
    name: str, *, checkpoint: str | PathLike[str], classes: int | None = 1000, device: str | torch.device = "cpu"
) -> MPViT:
    """Make a model with trained weights, in evaluation mode and float32.

    Args:
        name: as for :func:`build`.
        checkpoint: a ``.safetensors`` file or one of ``torch.save``, of any floating point dtype.
        classes: as for :func:`build`; with None a classifier in the file is passed over.
        device: where the model is put.

    Raises:
        ModelError: no model has this name, or the file cannot be read or holds the weights of something else.
    """
    model = build(name, classes=classes, device="meta")
    state = read_state_dict(checkpoint)
    if classes is None:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("cls_head.")}
    mismatch = Mismatch.between(model.state_dict(), state)
    if mismatch:
        raise ModelError(
            f"checkpoint={str(checkpoint)!r} does not hold the weights of MPViT {name!r}: {mismatch}. Check the name "
            "and the number of classes."
        )
    model.load_state_dict(state, assign=True)
    return model.float().to(device)
