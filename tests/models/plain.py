"""Stacks without branches: operators, containers, and reuse of modules without weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .case import Case, conv_norm_act, image, layer


class Plain(nn.Module):
    """Two conv-norm-ReLU and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


PLAIN_LAYERS = (
    layer("conv1", "BatchNorm2d", "ReLU", "stem", kind="independent", role="stem", conv_type="Conv2d"),
    layer("conv2", "BatchNorm2d", "ReLU", kind="independent", role="conv", conv_type="Conv2d"),
    layer("fc", None, None, "output", kind="independent", role="output", conv_type="Linear"),
)


class DefinedBackwards(nn.Module):
    """Modules are registered in the opposite order of their execution."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(8, 2, 1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.first = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


class ReusedActivation(nn.Module):
    """One ReLU module serves four convolutions and one dropout follows each."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.drop(self.act(conv(x)))
        return x


class Containers(nn.Module):
    """Lists in dicts in sequences; the dict is walked in another order than it was filled."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.ModuleDict({"right": nn.Sequential(conv_norm_act(6, 6)), "left": conv_norm_act(3, 6)}),
                nn.ModuleDict({"tail": nn.ModuleList([nn.Conv2d(6, 2, 1)])}),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.stages
        x = first["right"](first["left"](x))
        return second["tail"][0](x)


class ThroughViews(nn.Module):
    """Between an operator, its norm and its activation stand modules and views that change no value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.pass_on = nn.Identity()
        self.norm = nn.LayerNorm(8)
        self.pointwise = nn.Conv2d(8, 6, 1)
        self.act = nn.GELU()
        self.fc = nn.Linear(6, 4)
        self.norm2 = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.pass_on(self.conv(x)).permute(0, 2, 3, 1).contiguous())
        x = torch.relu(x.permute(0, 3, 1, 2))
        x = self.act(self.pointwise(x).flatten(2).transpose(1, 2).reshape(-1, 6))
        return self.norm2(self.fc(x).unsqueeze(-1).squeeze(-1)).clone()


class SignalNet(nn.Module):
    """One-dimensional, with a transposed convolution at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(2, 8, 5, 2, 2)
        self.norm = nn.BatchNorm1d(8)
        self.depthwise = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose1d(8, 2, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.down(x)))
        return self.up(torch.nn.functional.silu(self.depthwise(x)))


class VolumeNet(nn.Module):
    """Three-dimensional."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(4)
        self.conv2 = nn.Conv3d(4, 2, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(torch.relu(self.norm1(self.conv1(x))))


class Decoder(nn.Module):
    """Transposed convolutions with norm and activation, then a skip by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = conv_norm_act(3, 8)
        self.down = conv_norm_act(8, 8, stride=2)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.norm = nn.BatchNorm2d(8)
        self.fuse = nn.Conv2d(16, 4, 3, padding=1)
        self.up_head = nn.ConvTranspose2d(4, 1, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.encode(x)
        x = torch.relu(self.norm(self.up(self.down(skip))))
        return torch.sigmoid(self.up_head(torch.relu(self.fuse(torch.cat([x, skip], 1)))))


def make_root_sequential() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Flatten(), nn.Linear(1176, 2)
    )


def make_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))


CASES = (
    Case("plain", Plain, image(), PLAIN_LAYERS),
    Case("plain_batch_of_two", Plain, image(batch=2), PLAIN_LAYERS),
    Case(
        "defined_backwards",
        DefinedBackwards,
        image(),
        (
            layer("first", None, "ReLU", "stem", role="stem"),
            layer("middle", None, "ReLU", role="conv"),
            layer("last", None, None, "output", role="output"),
        ),
    ),
    Case(
        "reused_activation",
        ReusedActivation,
        image(channels=4),
        (
            layer("convs.0", None, "ReLU", "stem"),
            layer("convs.1", None, "ReLU"),
            layer("convs.2", None, "ReLU"),
            layer("convs.3", None, "ReLU", "output"),
        ),
    ),
    Case(
        "containers",
        Containers,
        image(),
        (
            layer("stages.0.left.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("stages.0.right.0.conv", "BatchNorm2d", "ReLU"),
            layer("stages.1.tail.0", None, None, "output"),
        ),
    ),
    Case(
        "through_views",
        ThroughViews,
        image(8),
        (
            layer("conv", "LayerNorm", "ReLU", "stem"),
            layer("pointwise", None, "GELU"),
            layer("fc", "BatchNorm1d", None, "output"),
        ),
    ),
    Case(
        "root_sequential",
        make_root_sequential,
        image(),
        (layer("0", "BatchNorm2d", "ReLU", "stem"), layer("3", None, None), layer("5", None, None, "output")),
    ),
    Case(
        "mlp",
        make_mlp,
        lambda: torch.randn(4, 10),
        (
            layer("0", None, "ReLU", "stem", conv_type="Linear"),
            layer("2", "LayerNorm", "GELU", conv_type="Linear"),
            layer("5", None, None, "output", conv_type="Linear"),
        ),
    ),
    Case(
        "lone_layer",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3)),
        image(8),
        (layer("0", None, None, "stem output", kind="independent"),),
    ),
    Case(
        "one_dimension",
        SignalNet,
        lambda: torch.randn(1, 2, 32),
        (
            layer("down", "BatchNorm1d", "ReLU", "stem", conv_type="Conv1d"),
            layer("depthwise", None, "SiLU", "depthwise", conv_type="Conv1d"),
            layer("up", None, None, "output", conv_type="ConvTranspose1d"),
        ),
    ),
    Case(
        "three_dimensions",
        VolumeNet,
        lambda: torch.randn(1, 1, 4, 8, 8),
        (
            layer("conv1", "BatchNorm3d", "ReLU", "stem", conv_type="Conv3d"),
            layer("conv2", None, None, "output", conv_type="Conv3d"),
        ),
    ),
    Case(
        "transposed",
        Decoder,
        image(),
        (
            layer("encode.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("down.conv", "BatchNorm2d", "ReLU"),
            layer("up", "BatchNorm2d", "ReLU", conv_type="ConvTranspose2d"),
            layer("fuse", None, "ReLU"),
            layer("up_head", None, "Sigmoid", "output", conv_type="ConvTranspose2d"),
        ),
    ),
)
