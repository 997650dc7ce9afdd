"""How modules are called: by keyword, past their hooks, in other modes and types, on odd shapes, under odd names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .case import Case, conv_norm_act, image, layer
from .plain import Plain


class KeywordCalls(nn.Module):
    """Every operator gets its input by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(input=self.norm(input=self.conv(input=x)))
        return self.fc(input=x.mean((2, 3)))


class PastTheHooks(nn.Module):
    """Calls ``forward`` of its parts: a block's inner modules still run their hooks, a lone convolution does not."""

    def __init__(self) -> None:
        super().__init__()
        self.block = conv_norm_act(3, 4)
        self.lone = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.lone.forward(self.block.forward(x))))


class Checkpointed(nn.Module):
    """A part whose activations are recomputed in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 4)
        self.block = conv_norm_act(4, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, self.stem(x), use_reentrant=False))


class OwnModes(nn.Module):
    """Switches autograd off, and inference mode on, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 4)
        self.block = conv_norm_act(4, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x)
        with torch.inference_mode():
            return self.head(self.block(x))


class OwnAutocast(nn.Module):
    """Runs its convolutions in bfloat16 from float32 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_norm_act(3, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.head(self.body(x))
        return x.float()


class LayerNormInFloat(nn.LayerNorm):
    """Layer norm in float32 inside a model of half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps).to(x)


def make_casting() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), LayerNormInFloat(8), nn.GELU(), nn.Linear(8, 2)).bfloat16()


class LinearOnViews(nn.Module):
    """Linear layers with and without bias on transposed, four-dimensional and one-dimensional tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.with_bias = nn.Linear(6, 6)
        self.without_bias = nn.Linear(8, 8, bias=False)
        self.back = nn.Linear(6, 6, bias=False)
        self.four = nn.Linear(3, 6)
        self.vector = nn.Linear(6, 2)
        self.vector_without_bias = nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.with_bias(x.transpose(1, 2)))
        x = F.gelu(self.without_bias(x.transpose(1, 2)))
        x = torch.tanh(self.back(x.mT))
        x = F.silu(self.four(x.unflatten(2, (2, 3)).transpose(1, 2)))
        return self.vector_without_bias(self.vector(x.mean((0, 1, 2))))


class Paddings(nn.Module):
    """Convolutions that pad by mode, by word, or by a module in front."""

    def __init__(self) -> None:
        super().__init__()
        self.reflect = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(4, 4, (1, 3), padding="same")
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.valid = nn.Conv2d(4, 4, 3, 2)
        self.dilated = nn.Conv2d(4, 2, 3, padding="same", dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.same(F.relu(self.reflect(x))))
        return self.dilated(F.relu(self.valid(self.pad(x))))


class Unbatched(nn.Module):
    """One image without a batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).mean((1, 2)))


class GeneratedFilters(nn.Module):
    """A small network makes the filters of a convolution: that convolution has no weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 4)
        self.generate = nn.Linear(4, 4 * 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        filters = self.generate(x.mean((0, 2, 3))).view(4, 4, 1, 1)
        return self.head(F.relu(F.conv2d(x, filters)))


class OtherWeights(nn.Module):
    """Weights in modules that are neither convolution nor linear layer by their class."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.pair = nn.Bilinear(6, 6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.lstm(self.words(tokens))[0]
        return self.head(F.relu(self.pair(states[:, 0], states[:, -1])))


def make_odd_names() -> nn.Module:
    model = nn.Sequential()
    for name, module in {"a:b": nn.Conv2d(3, 4, 1), "act": nn.ReLU(), "all": nn.Conv2d(4, 4, 1)}.items():
        model.add_module(name, module)
    model.add_module("@exit", nn.ReLU6())
    model.add_module("two words", nn.Conv2d(4, 2, 1))
    return model


def make_inference_image() -> Tensor:
    with torch.inference_mode():
        return torch.randn(1, 3, 16, 16)


PARALLEL = (
    layer("module.conv1", "BatchNorm2d", "ReLU", "stem"),
    layer("module.conv2", "BatchNorm2d", "ReLU"),
    layer("module.fc", None, None, "output"),
)

THREE_CONVS = (
    layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
    layer("block.conv", "BatchNorm2d", "ReLU"),
    layer("head", None, None, "output"),
)

CASES = (
    Case(
        "keyword_calls",
        KeywordCalls,
        image(8),
        (layer("conv", "BatchNorm2d", "ReLU", "stem"), layer("fc", None, None, "output")),
    ),
    Case(
        "past_the_hooks",
        PastTheHooks,
        image(8),
        (layer("block.conv", "BatchNorm2d", "ReLU", "stem"), layer("head", None, None, "output")),
        either=frozenset({"lone"}),
    ),
    Case("checkpointed", Checkpointed, image(8), THREE_CONVS),
    Case("own_modes", OwnModes, image(8), THREE_CONVS),
    Case(
        "own_autocast",
        OwnAutocast,
        image(8),
        (layer("body.conv", "BatchNorm2d", "ReLU", "stem"), layer("head", None, None, "output")),
    ),
    Case(
        "norm_in_float",
        make_casting,
        lambda: torch.randn(2, 8).bfloat16(),
        (layer("0", "LayerNormInFloat", "GELU", "stem"), layer("3", None, None, "output")),
    ),
    Case(
        "linear_on_views",
        LinearOnViews,
        lambda: torch.randn(2, 6, 8),
        (
            layer("with_bias", None, "ReLU", "stem", conv_type="Linear"),
            layer("without_bias", None, "GELU", conv_type="Linear"),
            layer("back", None, "Tanh", conv_type="Linear"),
            layer("four", None, "SiLU", conv_type="Linear"),
            layer("vector", None, None, conv_type="Linear"),
            layer("vector_without_bias", None, None, "output", conv_type="Linear"),
        ),
    ),
    Case(
        "paddings",
        Paddings,
        image(8),
        (
            layer("reflect", None, "ReLU", "stem"),
            layer("same", None, "ReLU"),
            layer("valid", None, "ReLU"),
            layer("dilated", None, None, "output"),
        ),
    ),
    Case(
        "unbatched",
        Unbatched,
        lambda: torch.randn(3, 8, 8),
        (layer("conv", None, "ReLU", "stem"), layer("fc", None, None, "output")),
    ),
    Case(
        "generated_filters",
        GeneratedFilters,
        image(8),
        (
            layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("generate", None, None),
            layer("head", None, None, "output"),
        ),
    ),
    Case(
        "other_weights",
        OtherWeights,
        lambda: torch.tensor([[1, 5, 9, 0]]),
        # whether a layer behind weights of other kinds reads the model's input is a matter of taste
        (layer("head", None, None, "output", unsure="stem"),),
        either=frozenset({"lstm", "pair"}),
    ),
    Case(
        "odd_names",
        make_odd_names,
        image(8),
        (
            layer("a:b", None, "ReLU", "stem"),
            layer("all", None, "ReLU6"),
            layer("two words", None, None, "output"),
        ),
    ),
    Case("data_parallel", lambda: nn.DataParallel(Plain()), image(), PARALLEL),
    Case("inference_image", lambda: nn.DataParallel(Plain()), make_inference_image, PARALLEL),
)
