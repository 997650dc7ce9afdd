"""What can follow an operator: every activation as module, function and by hand, and every norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, ExpectedLayer, Names, image, layer

Function = Callable[[Tensor], Tensor]


class Functions(nn.Module):
    """As many 1x1 convolutions as functions, each followed by one."""

    def __init__(self, functions: Sequence[Function]) -> None:
        super().__init__()
        self.functions = tuple(functions)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in functions)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv, function in zip(self.convs, self.functions, strict=True):
            x = function(conv(x))
        return self.head(x)


def function_case(name: str, table: Sequence[tuple[Function, Names]]) -> Case:
    """Case of ``Functions``: each function with the right names of it."""
    layers = [layer(f"convs.{i}", None, right, "stem" if i == 0 else "") for i, (_, right) in enumerate(table)]
    layers.append(layer("head", None, None, "output"))
    return Case(name, lambda: Functions([function for function, _ in table]), image(8, channels=4), tuple(layers))


FUNCTIONS: tuple[tuple[Function, Names], ...] = (
    (F.relu, "ReLU"),
    (torch.relu, "ReLU"),
    (lambda x: x.relu(), "ReLU"),
    (F.relu6, "ReLU6"),
    (F.leaky_relu, "LeakyReLU"),
    (lambda x: F.leaky_relu(x, 0.1), "LeakyReLU"),
    (F.elu, "ELU"),
    (F.selu, "SELU"),
    (F.gelu, "GELU"),
    (lambda x: F.gelu(x, approximate="tanh"), "GELU(tanh)"),
    (F.silu, "SiLU"),
    (F.mish, "Mish"),
    (F.hardswish, "Hardswish"),
    (F.hardsigmoid, "Hardsigmoid"),
    (F.softplus, "Softplus"),
    (torch.sigmoid, "Sigmoid"),
    (lambda x: x.sigmoid(), "Sigmoid"),
    (torch.tanh, "Tanh"),
)


def relu_and_forget(x: Tensor) -> Tensor:
    """The result is not taken: only the tensor itself has changed."""
    x.relu_()
    return x


INPLACE: tuple[tuple[Function, Names], ...] = (
    (torch.relu_, "ReLU"),
    (lambda x: x.relu_(), "ReLU"),
    (relu_and_forget, "ReLU"),
    (lambda x: F.relu(x, inplace=True), "ReLU"),
    (lambda x: F.hardswish(x, inplace=True), "Hardswish"),
    (lambda x: F.silu(x, inplace=True), "SiLU"),
    (lambda x: F.leaky_relu_(x, 0.2), "LeakyReLU"),
    (lambda x: x.sigmoid_(), "Sigmoid"),
)

BY_HAND: tuple[tuple[Function, Names], ...] = (
    (lambda x: x * torch.sigmoid(x), ("SiLU", "Swish")),
    (lambda x: torch.sigmoid(x) * x, ("SiLU", "Swish")),
    (lambda x: x.mul(x.sigmoid()), ("SiLU", "Swish")),
    (lambda x: x * F.relu6(x + 3) / 6, "Hardswish"),
    (lambda x: x * (F.relu6(x + 3.0) / 6.0), "Hardswish"),
    (lambda x: x * F.hardsigmoid(x), "Hardswish"),
    (lambda x: x * torch.tanh(F.softplus(x)), "Mish"),
    (lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))), "GELU(tanh)"),
    (lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), "GELU"),
)


class Swish(nn.Module):
    """SiLU under a name of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class HardSwishByHand(nn.Module):
    """Hardswish as it was written before torch had one; the inner ReLU6 is a module too."""

    def __init__(self) -> None:
        super().__init__()
        self.relu6 = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.relu6(x + 3) / 6


MODULES: tuple[tuple[Callable[[], nn.Module], Names], ...] = (
    (nn.ReLU, "ReLU"),
    (lambda: nn.ReLU(inplace=True), "ReLU"),
    (nn.ReLU6, "ReLU6"),
    (lambda: nn.LeakyReLU(0.1), "LeakyReLU"),
    (lambda: nn.PReLU(4), "PReLU"),
    (nn.PReLU, "PReLU"),
    (nn.ELU, "ELU"),
    (nn.GELU, "GELU"),
    (lambda: nn.GELU(approximate="tanh"), "GELU(tanh)"),
    (nn.SiLU, "SiLU"),
    (nn.Mish, "Mish"),
    (nn.Hardswish, "Hardswish"),
    (nn.Hardsigmoid, "Hardsigmoid"),
    (nn.Sigmoid, "Sigmoid"),
    (nn.Tanh, "Tanh"),
    (nn.Softplus, "Softplus"),
    (Swish, ("SiLU", "Swish")),
    (HardSwishByHand, ("Hardswish", "HardSwishByHand")),
)


def make_modules() -> nn.Module:
    convs = [nn.Sequential(nn.Conv2d(4, 4, 1), make()) for make, _ in MODULES]
    return nn.Sequential(*convs, nn.Conv2d(4, 2, 1))


def module_layers() -> tuple[ExpectedLayer, ...]:
    layers = [layer(f"{i}.0", None, right, "stem" if i == 0 else "") for i, (_, right) in enumerate(MODULES)]
    return (*layers, layer(str(len(MODULES)), None, None, "output"))


class NoActivation(nn.Module):
    """Functions that follow a convolution and are no activation of it."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled = nn.Conv2d(3, 4, 1)
        self.pooled = nn.Conv2d(4, 4, 1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.gated = nn.Conv2d(4, 4, 1)
        self.two_readers = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.pooled(self.scaled(x) * 2 + 1), 2)
        # a gate that another convolution made is no self-gated activation
        x = torch.sigmoid(self.gate(x)) * self.gated(x)
        both = self.two_readers(x)
        return self.last(F.relu(both)).mean((2, 3)), both


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with every number fixed, as detectors use it."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of (N, C, H, W), by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        x = centred / torch.sqrt(centred.square().mean(dim=1, keepdim=True) + 1e-6)
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class EvoNorm(nn.Module):
    """EvoNorm-S0 (Liu et al. 2020, table 2): norm and activation in one."""

    def __init__(self, channels: int, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.v = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], self.groups, -1)
        deviation = (grouped.var(dim=2, unbiased=False, keepdim=True) + 1e-5).sqrt().expand_as(grouped).reshape(x.shape)
        return x * torch.sigmoid(self.v * x) / deviation * self.weight + self.bias


class SwitchableNorm(nn.Module):
    """Learned mixture of instance, layer and batch statistics (Luo et al. 2018, equation 3), in evaluation."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("running_var", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        means = (x.mean((2, 3), keepdim=True), x.mean((1, 2, 3), keepdim=True), self.running_mean)
        variances = (x.var((2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True), self.running_var)
        mix_mean, mix_var = torch.softmax(self.mean_weight, 0), torch.softmax(self.var_weight, 0)
        mean = sum(share * value for share, value in zip(mix_mean, means, strict=True))
        variance = sum(share * value for share, value in zip(mix_var, variances, strict=True))
        return (x - mean) / (variance + 1e-5).sqrt() * self.weight + self.bias


class Standardise(nn.Module):
    """Acts as a norm, without norm in its name and without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-5)


class BatchNormAct2d(nn.BatchNorm2d):
    """Batch norm that holds its activation, as timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


# an activation that a norm holds may be told apart or be part of the norm
NORMS: tuple[tuple[Callable[[int], nn.Module], str, Names], ...] = (
    (nn.BatchNorm2d, "BatchNorm2d", "ReLU"),
    (nn.SyncBatchNorm, "SyncBatchNorm", "ReLU"),
    (FrozenBatchNorm2d, "FrozenBatchNorm2d", "ReLU"),
    (lambda channels: nn.GroupNorm(2, channels), "GroupNorm", "ReLU"),
    (lambda channels: nn.InstanceNorm2d(channels, affine=True), "InstanceNorm2d", "ReLU"),
    (LayerNorm2d, "LayerNorm2d", "ReLU"),
    (SwitchableNorm, "SwitchableNorm", "ReLU"),
    (lambda channels: Standardise(), "Standardise", "ReLU"),
)


def make_norms() -> nn.Module:
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), make(4), nn.ReLU()) for make, _, _ in NORMS]
    return nn.Sequential(*blocks, nn.Conv2d(4, 2, 1))


def norm_layers() -> tuple[ExpectedLayer, ...]:
    layers = [layer(f"{i}.0", norm, act, "stem" if i == 0 else "") for i, (_, norm, act) in enumerate(NORMS)]
    return (*layers, layer(str(len(NORMS)), None, None, "output"))


def make_norms_that_activate() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), BatchNormAct2d(4), nn.Conv2d(4, 4, 3, padding=1), EvoNorm(4), nn.Conv2d(4, 2, 1)
    )


class FunctionalNorms(nn.Module):
    """Norms as functions: there is no module that normalises."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("variance", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.batch_norm(self.convs[0](x), self.mean, self.variance))
        x = F.relu(F.group_norm(self.convs[1](x), 2))
        return F.relu(F.layer_norm(self.convs[2](x), x.shape[1:]))


class TokenNorms(nn.Module):
    """Linear layers over tokens with layer norm and root-mean-square norm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 8)
        self.norm1 = nn.LayerNorm(8)
        self.fc2 = nn.Linear(8, 8)
        self.norm2 = nn.RMSNorm(8)
        self.fc3 = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.silu(self.norm2(self.fc2(F.gelu(self.norm1(self.fc1(x)))))))


CASES = (
    function_case("functional_activations", FUNCTIONS),
    function_case("inplace_activations", INPLACE),
    function_case("handwritten_activations", BY_HAND),
    Case("module_activations", make_modules, image(8, channels=4), module_layers()),
    Case(
        "no_activation",
        NoActivation,
        image(8),
        (
            layer("scaled", None, None, "stem"),
            layer("pooled", None, None),
            layer("gate", None, "Sigmoid"),
            layer("gated", None, None),
            layer("two_readers", None, None, "output"),
            layer("last", None, None, "output"),
        ),
    ),
    Case("norms", make_norms, image(8, channels=4), norm_layers()),
    Case(
        "norms_that_activate",
        make_norms_that_activate,
        image(8, channels=4),
        (
            layer("0", "BatchNormAct2d", "ReLU", "stem"),
            layer("2", "EvoNorm", ("EvoNorm", "SiLU", "Swish", None)),
            layer("4", None, None, "output"),
        ),
    ),
    Case(
        "functional_norms",
        FunctionalNorms,
        image(8, channels=4),
        (
            layer("convs.0", ("BatchNorm", "BatchNorm2d", "batch_norm"), "ReLU", "stem"),
            layer("convs.1", ("GroupNorm", "group_norm"), "ReLU"),
            layer("convs.2", ("LayerNorm", "layer_norm"), "ReLU", "output"),
        ),
    ),
    Case(
        "token_norms",
        TokenNorms,
        lambda: torch.randn(2, 5, 8),
        (
            layer("fc1", "LayerNorm", "GELU", "stem"),
            layer("fc2", "RMSNorm", "SiLU"),
            layer("fc3", None, None, "output"),
        ),
    ),
)
