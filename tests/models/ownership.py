"""Who owns a weight and who multiplies by it: shared, tied, computed, and never used weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .case import Case, conv_norm_act, image, layer


class TiedConvs(nn.Module):
    """Two modules hold one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class TiedEmbedding(nn.Module):
    """The classifier's weight is the table of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(F.gelu(self.mix(self.words(tokens))))


class TwoPaths(nn.Module):
    """One module under two names, called under both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.alias = self.first
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.alias(F.relu(self.first(x)))))


class Looped(nn.Module):
    """The same block four times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 6)
        self.block = conv_norm_act(6, 6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(4):
            x = self.block(x)
        return self.head(x)


class Recursive(nn.Module):
    """Calls itself on a smaller image until it is small enough."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return x if x.shape[-1] <= 4 else self(F.avg_pool2d(x, 2))


class DeadBranch(nn.Module):
    """An auxiliary head that only training runs, a module that nobody calls, and a result that nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 6)
        self.auxiliary = nn.Conv2d(6, 2, 1)
        self.forgotten = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.dropped = nn.Conv2d(6, 2, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        self.dropped(x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


class FunctionalUse(nn.Module):
    """Takes the weight out of a convolution and never calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)))


class OwnConv(nn.Module):
    """A convolution that is no ``nn.Conv2d``."""

    def __init__(self, read: int, write: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(write, read, 3, 3) * 0.1)
        self.bias = nn.Parameter(torch.zeros(write))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=1)


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: each filter is normalised before use."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-6)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class SamePaddedConv(nn.Conv2d):
    """Padding as TensorFlow has it, before the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class OwnLinear(nn.Module):
    """A linear layer by matrix product, its weight under another name and the other way round."""

    def __init__(self, read: int, write: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(read, write) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel


class OwnOperators(nn.Module):
    """Modules that own a weight and do the multiplication themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = OwnConv(3, 6)
        self.norm = nn.BatchNorm2d(6)
        self.standardised = StandardisedConv(6, 6, 3, padding=1)
        self.group_norm = nn.GroupNorm(2, 6)
        self.same = SamePaddedConv(6, 6, 3, 2)
        self.linear = OwnLinear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.plain(x)))
        x = F.relu(self.group_norm(self.standardised(x)))
        return self.linear(F.relu(self.same(x)).mean((2, 3)))


class FixedFilters(nn.Module):
    """A blur with constant weights is no layer: there is nothing to quantize that was learned."""

    blur: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("blur", torch.full((4, 1, 3, 3), 1 / 9), persistent=False)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(F.relu(self.conv(x)), self.blur, stride=2, padding=1, groups=4)
        return self.head(x)


def parametrized(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        conv = wrap(nn.Conv2d(3, 6, 3, padding=1))
        return nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(), wrap(nn.Conv2d(6, 2, 1)))

    return make


def old_weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


PARAMETRIZED = (layer("0", "BatchNorm2d", "ReLU", "stem"), layer("3", None, None, "output"))

CASES = (
    Case(
        "tied_convolutions",
        TiedConvs,
        image(8),
        (layer("first", None, "ReLU", "stem"), layer("second", None, None, "output")),
    ),
    Case(
        "tied_embedding",
        TiedEmbedding,
        lambda: torch.tensor([[1, 5, 9, 0]]),
        # whether a layer behind a table look-up reads the model's input is a matter of taste
        (layer("mix", None, "GELU", unsure="stem"), layer("head", None, None, "output")),
    ),
    Case(
        "two_paths",
        TwoPaths,
        image(8),
        (layer("first", None, "ReLU", "stem", calls=2), layer("head", None, None, "output")),
    ),
    Case(
        "looped",
        Looped,
        image(8),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("block.conv", "BatchNorm2d", "ReLU", calls=4),
            layer("head", None, None, "output"),
        ),
    ),
    Case("recursive", Recursive, image(16), (layer("conv", None, "ReLU", "stem output", calls=3),)),
    Case(
        "dead_branch",
        DeadBranch,
        image(8),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("dropped", None, None),
            layer("head", None, None, "output"),
        ),
        skipped={"auxiliary": "never called", "forgotten.0": "never called"},
    ),
    Case(
        "functional_use",
        FunctionalUse,
        image(8),
        (layer("head", None, None, "output"),),
        either=frozenset({"conv"}),
    ),
    Case(
        "own_operators",
        OwnOperators,
        image(8),
        (
            layer("plain", "BatchNorm2d", "ReLU", "stem", conv_type="Conv2d"),
            layer("standardised", "GroupNorm", "ReLU", conv_type="Conv2d"),
            layer("same", None, "ReLU", conv_type="Conv2d"),
            layer("linear", None, None, "output", conv_type="Linear"),
        ),
    ),
    Case(
        "fixed_filters",
        FixedFilters,
        image(8),
        (layer("conv", None, "ReLU", "stem"), layer("head", None, None, "output")),
    ),
    Case("weight_norm", parametrized(parametrizations.weight_norm), image(8), PARAMETRIZED),
    Case("spectral_norm", parametrized(parametrizations.spectral_norm), image(8), PARAMETRIZED),
    Case("old_weight_norm", parametrized(old_weight_norm), image(8), PARAMETRIZED),
)
