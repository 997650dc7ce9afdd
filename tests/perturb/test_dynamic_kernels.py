"""A convolution whose kernel each input mixes, scales or chooses is a layer: both of its operands are quantized."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.prepare.plan import Plan
from tests.perturb.test_operands import ACTIVATIONS, WEIGHTS, close, rounded, rounded_weight

EXPERTS, READ, WRITTEN, SIDE = 3, 4, 6, 7
Kernels = Callable[["Dynamic", Tensor], Tensor]
"""From the coefficients (B, K) to a kernel (out, in, 3, 3) for each of B images."""

BOTH = sv.Recipe(
    "both",
    activations=sv.QuantSpec("int8", observer="minmax"),
    weights=sv.QuantSpec("int8", granularity="per-channel", observer="minmax"),
)
PER_TENSOR = sv.Recipe("per tensor", weights=sv.QuantSpec("int8", granularity="per-tensor", observer="minmax"))


def by_product(self: Dynamic, a: Tensor) -> Tensor:
    """CondConv: the coefficients are multiplied by the flat experts."""
    return (a @ self.experts.flatten(1)).view(-1, *self.experts.shape[1:])


def by_sum(self: Dynamic, a: Tensor) -> Tensor:
    """ODConv: experts are scaled, and summed."""
    return (a.view(-1, EXPERTS, 1, 1, 1, 1) * self.experts).sum(1)


def by_einsum(self: Dynamic, a: Tensor) -> Tensor:
    return torch.einsum("bk,koihw->boihw", a, self.experts)


def by_list(self: Dynamic, a: Tensor) -> Tensor:
    return torch.stack([sum(c * expert for c, expert in zip(row, self.experts, strict=True)) for row in a])


def modulated(self: Dynamic, a: Tensor) -> Tensor:
    """StyleGAN2: one kernel is scaled along the channels that it reads, and normalized again."""
    kernels = self.experts[0] * (a.sum(1) + torch.arange(1.0, READ + 1)[:, None]).T.view(-1, 1, READ, 1, 1)
    return kernels * torch.rsqrt(kernels.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)


def chosen(self: Dynamic, a: Tensor) -> Tensor:
    return self.experts[a.argmax(1)]


def corrected(self: Dynamic, a: Tensor) -> Tensor:
    """Dynamic channel decomposition and adapters: a constant kernel, and what the input adds to it."""
    return self.experts[0] + a[:, :1, None, None, None] * self.experts[1]


KERNELS: list[Kernels] = [by_product, by_sum, by_einsum, by_list, modulated, chosen, corrected]
every_kernel = pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.__name__)


class Dynamic(nn.Module):
    """A convolution with a kernel for each image, all images side by side as groups of one."""

    def __init__(self, kernels: Kernels, convolve: Callable[..., Tensor] = F.conv2d) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(EXPERTS, WRITTEN, READ, 3, 3))
        self.kernels, self.convolve = kernels, convolve

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        weight = self.kernels(self, a).flatten(0, 1)
        y = self.convolve(x.reshape(1, -1, *x.shape[2:]), weight, padding=1, groups=len(x))
        return y.view(len(x), -1, *y.shape[2:])


class OneByOne(Dynamic):
    """The same in a loop, as for an example of one image."""

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return F.conv2d(x, self.kernels(self, a)[0], padding=1)


class Net(nn.Module):
    def __init__(self, dynamic: nn.Module) -> None:
        super().__init__()
        self.dynamic, self.router = dynamic, nn.Linear(READ, EXPERTS)

    def coefficients(self, x: Tensor) -> Tensor:
        return self.router(x.mean((2, 3))).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dynamic(x, self.coefficients(x))


def images(number: int = 3) -> Tensor:
    return torch.randn(number, READ, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def net(kernels: Kernels, kind: type[Dynamic] = Dynamic) -> Net:
    torch.manual_seed(0)
    return Net(kind(kernels)).eval()


def by_hand(
    model: Net, x: Tensor, quantize_input: Callable[[Tensor], Tensor], quantize: Callable[..., Tensor]
) -> Tensor:
    """Each image convolved with its own kernel, both operands quantized."""
    dynamic = model.dynamic
    assert isinstance(dynamic, Dynamic)
    kernels = dynamic.kernels(dynamic, model.coefficients(x))
    pairs = zip(quantize_input(x).split(1), kernels, strict=True)
    return torch.cat([F.conv2d(image, quantize(kernel), padding=1) for image, kernel in pairs])


def in_int8(wrapped: sv.Wrapped, x: Tensor, recipe: sv.Recipe) -> Tensor:
    if recipe.activations is not None:
        wrapped.calibrate(x, recipe)
    with torch.no_grad(), wrapped.quantized(sv.Scheme.only("dynamic", recipe)) as model:
        return model(x)


@every_kernel
@torch.no_grad()
def test_both_operands_of_a_dynamic_convolution_are_quantized(kernels: Kernels) -> None:
    model, x = net(kernels), images()
    wrapped = sv.wrap(model, x)
    layer = next(layer for layer in wrapped.layers if layer.module == "dynamic")
    assert (layer.conv_type, layer.in_channels, layer.out_channels, layer.groups) == ("Conv2d", READ, WRITTEN, 1)
    assert layer.has_dynamic_kernel
    assert wrapped.layers.select("@dynamic-kernel").names == [layer.name]
    assert len([other for other in wrapped.layers if other.module == "dynamic"]) == 1
    plain = model(x)
    for recipe, quantize_input, quantize in (
        (ACTIVATIONS, rounded, lambda kernel: kernel),
        (WEIGHTS, lambda tensor: tensor, rounded_weight),
        (BOTH, rounded, rounded_weight),
        (PER_TENSOR, lambda tensor: tensor, rounded),
    ):
        changed = in_int8(wrapped, x, recipe)
        assert close(changed, by_hand(model, x, quantize_input, quantize)), recipe.name
        assert not close(changed, plain)


@torch.no_grad()
def test_the_example_may_hold_one_image_and_the_batch_many() -> None:
    model, x = net(by_product), images()
    wrapped = sv.wrap(model, x[:1])
    expected = by_hand(model, x, rounded, rounded_weight)
    assert close(in_int8(wrapped, x, BOTH), expected)
    one_by_one = sv.wrap(net(by_product, OneByOne), x[:1])
    one_by_one.calibrate(list(x.split(1)), BOTH)
    with one_by_one.quantized(sv.Scheme.only("dynamic", BOTH)) as loop:
        assert close(torch.cat([loop(image) for image in x.split(1)]), expected)


@torch.no_grad()
def test_images_side_by_side_are_calibrated_one_by_one() -> None:
    model, x = net(by_sum), images(4)
    recipe = sv.Recipe("ema", activations=sv.QuantSpec("int8", observer="ema"))
    ranges = [sv.wrap(model, x).calibrate(list(x.split(size)), recipe).ranges for size in (1, 2, 4)]
    assert ranges[0] == ranges[1] == ranges[2]


@torch.no_grad()
def test_a_transposed_dynamic_convolution_is_quantized_along_what_it_writes() -> None:
    def transposed(self: Dynamic, a: Tensor) -> Tensor:
        return by_product(self, a).transpose(1, 2)

    torch.manual_seed(0)
    model, x = Net(Dynamic(transposed, F.conv_transpose2d)).eval(), images()
    wrapped = sv.wrap(model, x)
    assert (wrapped.layers["dynamic"].in_channels, wrapped.layers["dynamic"].out_channels) == (READ, WRITTEN)
    kernels = model.dynamic.kernels(model.dynamic, model.coefficients(x))
    pairs = list(zip(rounded(x).split(1), kernels, strict=True))
    expected = [F.conv_transpose2d(image, rounded_weight(kernel, axis=1), padding=1) for image, kernel in pairs]
    assert close(in_int8(wrapped, x, BOTH), torch.cat(expected))


@torch.no_grad()
def test_a_kernel_that_a_linear_layer_gives_is_an_activation_and_the_linear_is_the_layer() -> None:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker = nn.Linear(READ, WRITTEN * READ)

        def forward(self, x: Tensor) -> Tensor:
            weight = self.maker(x.mean((2, 3))).view(-1, READ, 1, 1)
            return F.conv2d(x.reshape(1, -1, *x.shape[2:]), weight, groups=len(x)).view(len(x), -1, *x.shape[2:])

    model, x = Hyper().eval(), images()
    wrapped = sv.wrap(model, x)
    assert [(layer.module, layer.conv_type) for layer in wrapped.layers] == [("maker", "Linear")]
    means = x.mean((2, 3))
    wrapped.calibrate(x, BOTH)
    with wrapped.quantized(sv.Scheme.all(BOTH)) as changed:
        weight = F.linear(rounded(means), rounded_weight(model.maker.weight), model.maker.bias).view(-1, READ, 1, 1)
        expected = F.conv2d(x.reshape(1, -1, SIDE, SIDE), weight, groups=len(x)).view(len(x), -1, SIDE, SIDE)
        assert close(changed(x), expected)


def test_a_kernel_that_other_layers_give_belongs_to_them_even_where_a_parameter_scales_it() -> None:
    class Tracker(nn.Module):
        """Looks for a template in an image; the scale is learnt."""

        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(READ, WRITTEN, 3)
            self.scale = nn.Parameter(torch.ones(WRITTEN, 1, 1))

        def forward(self, template: Tensor, x: Tensor) -> Tensor:
            return F.conv2d(self.features(x), self.features(template) * self.scale)

    wrapped = sv.wrap(Tracker().eval(), (images(1)[..., :5, :5], images(1)))
    assert [(layer.module, layer.flags & {"dynamic-kernel"}) for layer in wrapped.layers] == [("features", frozenset())]


@every_kernel
def test_a_sweep_measures_it(kernels: Kernels) -> None:
    model, x = net(kernels), images()
    wrapped = sv.wrap(model, x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    study = wrapped.analyze(sv.FeatureFidelity(x), BOTH, calibration=x, progress=False)
    rows = {row.layer: row for row in study.measurements}
    with torch.no_grad():
        plain, changed = model(x).double(), by_hand(model, x, rounded, rounded_weight).double()
    sqnr = 10 * torch.log10(plain.square().sum() / (plain - changed).square().sum())
    name = wrapped.layers["dynamic"].name
    assert rows[name].score == pytest.approx(float(sqnr), abs=0.01)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())


@every_kernel
def test_deploying_leaves_it_in_float_and_says_that_its_kernel_is_dynamic(kernels: Kernels) -> None:
    pytest.importorskip("onnxruntime")
    model, x = net(kernels), images()
    wrapped = sv.wrap(model, x[:1])
    wrapped.calibrate(x, sv.INT8)
    plan: Plan = wrapped.plan(sv.Scheme.all(sv.INT8))
    name = wrapped.layers["dynamic"].name
    assert [layer.module for layer in plan.quantized] == ["router"]
    assert plan.left_out[name].startswith("its kernel is dynamic: each input mixes")
    if kernels is not by_product:
        return  # the export takes seconds
    deployed = wrapped.deploy(sv.Scheme.all(sv.INT8), "onnxruntime")
    with torch.no_grad(), plan.simulated() as simulated:
        torch.testing.assert_close(deployed(x[:1]), simulated(x[:1]), atol=1e-4, rtol=1e-4)
