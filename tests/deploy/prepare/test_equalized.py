"""An equalized copy computes the same, under the same names, and loses less when it is quantized."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.layers.structure.channels import find_channels
from sensitivity.layers.trace.tracing import trace
from tests.deploy.nets import SAFE_INT8, Resnet, SharedHead, build, images

PER_TENSOR = sv.Recipe("int8 per tensor", weights=sv.QuantSpec("int8"), activations=sv.QuantSpec("int8"))


def chain(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), activation()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), activation()),
        *(nn.Conv2d(8, 12, 1, groups=2), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)),
    )


class Residual(nn.Module):
    """Two blocks whose sums share channels, and a shortcut with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.shortcut, self.c, self.head = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(F.relu(self.a(x)))
        x = F.max_pool2d(F.relu(x), 2)
        return self.head(F.leaky_relu(self.c(x) + self.shortcut(x)))


class Branches(nn.Module):
    """Channels that are cut apart, gated, padded and put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3)
        self.gate, self.head = nn.Conv2d(6, 6, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.stem(x)).chunk(2, 1)
        left, right = self.left(left), self.right(F.pad(right, (1, 1, 1, 1)))
        left = left * torch.sigmoid(self.gate(left.mean((2, 3), keepdim=True)))
        joined = F.interpolate(torch.cat([F.relu(left), F.relu(right)], 1), scale_factor=2)
        return self.head(joined)


class Tokens(nn.Module):
    """Linear layers behind a norm with a scale of its own, over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.first, self.second = (
            *(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 4)),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.flatten(2).transpose(1, 2))
        return self.second(F.relu(self.first(self.norm(tokens))))


class Shared(nn.Module):
    """A head that is called twice, on channels of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(F.relu(self.one(x))), self.head(F.relu(self.two(x)))


class Transposed(nn.Module):
    """Transposed convolutions with groups between others."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.last = (
            nn.Conv2d(3, 8, 2, 2),
            nn.ConvTranspose2d(8, 12, 2, 2, groups=2),
            nn.Conv2d(12, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.up(F.relu(self.down(x)))))


NETS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": lambda: chain(nn.ReLU),
    "LeakyReLU": lambda: chain(lambda: nn.LeakyReLU(0.1)),
    "PReLU": lambda: chain(lambda: nn.PReLU()),
    "no activation": lambda: chain(nn.Identity),
    "residual": Residual,
    "branches": Branches,
    "tokens": Tokens,
    "shared": Shared,
    "transposed": Transposed,
}


@torch.no_grad()
def uneven(make: Callable[[], nn.Module]) -> nn.Module:
    """A net whose layers write channels of very different sizes, and read them so that each matters as much."""
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and module.weight.shape[0] > 4:
            module.weight *= torch.exp(1.5 * torch.randn(module.weight.shape[0])).reshape(
                -1, *[1] * (module.weight.dim() - 1)
            )
    return net


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(x)
    return torch.cat([tensor.flatten() for tensor in (output if isinstance(output, tuple) else (output,))])


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NETS)
def test_the_copy_computes_the_same_under_the_same_names_and_the_model_is_not_changed(name: str) -> None:
    net = uneven(NETS[name])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    wrapped = sv.wrap(net, X[:1])
    equalized = wrapped.equalized()
    assert [layer.name for layer in equalized.layers] == [layer.name for layer in wrapped.layers]
    expected, computed = outputs(net, X), outputs(equalized.model, X)
    assert (computed - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    folded = wrapped.folded()
    changed = {
        layer.module for layer in wrapped.layers if not torch.equal(weight(equalized, layer), weight(folded, layer))
    }
    unchanged = {"embed"} if name == "tokens" else set()  # between the model's input and a norm
    assert changed | unchanged == {layer.module for layer in wrapped.layers}


def weight(wrapped: sv.Wrapped, layer: sv.Layer) -> Tensor:
    return wrapped.model.get_submodule(layer.module)._parameters["weight"]  # type: ignore[return-value]


@pytest.mark.parametrize("name", NETS)
def test_every_channel_between_layers_is_as_large_where_it_is_written_as_where_it_is_read(name: str) -> None:
    equalized = sv.wrap(uneven(NETS[name]), X[:1]).equalized()
    modules = [path for path, module in equalized.model.named_modules() if getattr(module, "weight", None) is not None]
    channels = find_channels(trace(equalized.model, X[:1]), modules)
    written: dict[int, float] = {}
    read: dict[int, float] = {}
    for layer in channels.layers:
        module = equalized.model.get_submodule(layer.module)
        values = module.weight.detach().abs()  # type: ignore[union-attr]
        groups = getattr(module, "groups", 1)
        if isinstance(module, nn.ConvTranspose2d):  # (in, out / groups): as (out, in / groups)
            values = torch.cat([part.transpose(0, 1) for part in values.chunk(groups)])
        for number, filters in zip(layer.written.tolist(), values, strict=True):
            written[number] = max(written.get(number, 0.0), float(filters.max()))
        if layer.read is None:
            continue
        for place, number in enumerate(layer.read.tolist()):
            group, column = divmod(place, len(layer.read) // groups)
            part = values.chunk(groups)[group][:, column]
            read[number] = max(read.get(number, 0.0), float(part.max()))
    free = [number for number in written if number in read and number not in channels.reasons]
    assert free
    for number in free:
        assert written[number] == pytest.approx(read[number], rel=0.05)


def without_norm() -> nn.Module:
    net = chain(nn.ReLU)
    net[0], net[1] = nn.Conv2d(3, 8, 3, padding=1), nn.Identity()  # type: ignore[operator]
    return net


OUTLYING: dict[str, tuple[Callable[[], nn.Module], list[str], list[str]]] = {
    "depthwise": (without_norm, ["0"], ["3"]),
    "residual": (Residual, ["stem", "b"], ["a", "c", "shortcut"]),
}


@torch.no_grad()
def outlying(name: str) -> nn.Module:
    """A net in which some channels are a thousand times as large as others, and read so that all matter alike."""
    torch.manual_seed(0)
    make, writers, readers = OUTLYING[name]
    net = make().eval()
    scale = torch.logspace(-1.5, 1.5, 8)
    for path in writers:
        net.get_submodule(path)._parameters["weight"].mul_(scale.reshape(8, 1, 1, 1))  # type: ignore[union-attr]
        net.get_submodule(path)._parameters["bias"].mul_(scale)  # type: ignore[union-attr]
    for path in readers:
        shape = (8, 1, 1, 1) if name == "depthwise" else (1, 8, 1, 1)
        net.get_submodule(path)._parameters["weight"].div_(scale.reshape(shape))  # type: ignore[union-attr]
    return net


@pytest.mark.parametrize("name", OUTLYING)
def test_outlying_channels_cost_less_once_they_are_equalized(name: str) -> None:
    wrapped = sv.wrap(outlying(name), X[:1])
    expected, measured = outputs(wrapped.model, X), []
    for variant in (wrapped, wrapped.equalized()):
        variant.calibrate(X, PER_TENSOR)
        with variant.quantized(sv.Scheme.all(PER_TENSOR)) as model:
            measured.append(sqnr_db(expected, outputs(model, X)))
    assert measured[1] > measured[0] + 10.0


def test_layers_behind_other_activations_are_left_and_named_with_the_reason() -> None:
    wrapped = sv.wrap(uneven(lambda: chain(nn.SiLU)), X[:1])
    equalized = wrapped.equalized()
    reasons = {wrapped.layers[name].module: reason for name, reason in equalized.reasons.items()}
    assert reasons["0"] == "3 of 3 channels that it reads are left: they come from the model's input"
    assert reasons["3"] == "8 of 8 channels that it reads are left: silu in front of them does not scale as they do"
    assert wrapped.reasons == {}
    assert list(sv.wrap(uneven(NETS["ReLU"]), X[:1]).equalized().reasons) == [wrapped.layers[0].name]


def test_a_last_layer_whose_weight_is_multiplied_by_a_function_is_left_as_it_is() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.relu(self.a(x)).mean((2, 3)), self.b.weight, self.b.bias)

    wrapped = sv.wrap(uneven(Written), X[:1])
    equalized = wrapped.equalized()
    assert torch.equal(outputs(equalized.model, X), outputs(wrapped.model, X))
    assert equalized.reasons[wrapped.layers[1].name] == "its weight cannot be scaled"


def test_what_the_model_returns_is_not_scaled() -> None:
    class Returned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(x)
            return self.b(F.relu(y)), y

    equalized = sv.wrap(uneven(Returned), X[:1]).equalized()
    assert "the model returns them" in list(equalized.reasons.values())[1]


def test_nets_in_the_shapes_of_well_known_ones_compute_the_same() -> None:
    for make in (Resnet, SharedHead):
        wrapped = sv.wrap(build(make), images(1))
        x = images(2, seed=4)
        with torch.no_grad():
            before, other = wrapped.model(x), wrapped.equalized().model(x)
        pairs = (
            [(before, other)]
            if isinstance(before, Tensor)
            else list(zip(before["scores"], other["scores"], strict=True))
        )
        for was, now in pairs:
            assert (now - was).abs().max() <= 1e-5 * was.abs().max()


def test_an_equalized_net_is_deployed_and_verified_like_every_other() -> None:
    equalized = sv.wrap(uneven(NETS["ReLU"]), X[:1]).equalized()
    equalized.calibrate(X, SAFE_INT8)
    deployed = equalized.deploy(sv.Scheme.all(SAFE_INT8), "openvino")
    compared = [check for check in equalized.verify(deployed).layers if check.code_share is not None]
    assert len(compared) >= len(equalized.layers) - 1
    assert all(check.code_share <= 2e-4 for check in compared if check.code_share is not None)
