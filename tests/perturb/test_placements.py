"""Every quantization point of both placements, on a net of three layers computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sensitivity as sv
from sensitivity.errors import RecipeError

DEPLOY = sv.INT8_MINMAX
CONV_NORM_ACT = sv.Recipe(
    "thesis-minmax",
    weights=sv.QuantSpec("int8", "per-channel"),
    activations=sv.QuantSpec("int8"),
    placement="conv-norm-act",
)


class Net(nn.Module):
    """Convolution with norm and activation, convolution with a shared activation, linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 4, 1)
        self.act = nn.ReLU()  # behind both
        self.head = nn.Linear(4, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        return self.head(self.act(self.second(x)).mean((2, 3)))


def step(tensor: Tensor) -> float:
    return float(tensor.abs().max()) / 127


def tensorwise(tensor: Tensor, scale: float) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(tensor, scale, 0, -128, 127)


def channelwise(weight: Tensor) -> Tensor:
    steps = weight.abs().flatten(1).amax(1) / 127
    return torch.fake_quantize_per_channel_affine(
        weight, steps, torch.zeros(len(steps), dtype=torch.int32), 0, -127, 127
    )


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_deploy_quantizes_the_input_of_each_layer_and_its_folded_weight(net: Net, x: Tensor) -> None:
    gamma = net.norm.weight / torch.sqrt(net.norm.running_var + net.norm.eps)
    beta = net.norm.bias - net.norm.running_mean * gamma
    # ranges come from the unperturbed model
    first = net.act(net.norm(net.conv(x)))
    pooled = net.act(net.second(first)).mean((2, 3))
    hidden = F.conv2d(tensorwise(x, step(x)), channelwise(net.conv.weight * gamma[:, None, None, None]), beta).relu()
    hidden = F.conv2d(tensorwise(hidden, step(first)), channelwise(net.second.weight), net.second.bias).relu()
    expected = F.linear(tensorwise(hidden.mean((2, 3)), step(pooled)), channelwise(net.head.weight), net.head.bias)

    wrapped = sv.wrap(net, x)
    calibration = wrapped.calibrate([x], DEPLOY)
    assert {(p.layer, p.place) for p in calibration.ranges} == {(name, "input") for name in wrapped.layers.names}
    with wrapped.quantized(sv.Scheme.all(DEPLOY)):
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_conv_norm_act_quantizes_input_raw_weight_and_all_three_outputs(net: Net, x: Tensor) -> None:
    conv = net.conv(x)
    norm = net.norm(conv)
    hidden = F.conv2d(tensorwise(x, step(x)), channelwise(net.conv.weight))
    hidden = net.norm(tensorwise(hidden, step(conv)))
    hidden = tensorwise(tensorwise(hidden, step(norm)).relu(), step(norm.relu()))
    expected = net.head(net.act(net.second(hidden)).mean((2, 3)))

    wrapped = sv.wrap(net, x)
    calibration = wrapped.calibrate([x], CONV_NORM_ACT)
    places = {p.place for p in calibration.ranges if p.layer == "conv:0:0"}
    assert places == {"input", "output", "norm", "activation"}
    with wrapped.quantized(sv.Scheme.only("conv", CONV_NORM_ACT)):
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_an_activation_that_serves_two_layers_is_quantized_behind_the_right_one(net: Net, x: Tensor) -> None:
    first = net.act(net.norm(net.conv(x)))
    second = net.second(first)
    hidden = F.conv2d(tensorwise(first, step(first)), channelwise(net.second.weight), net.second.bias)
    hidden = tensorwise(tensorwise(hidden, step(second)).relu(), step(second.relu()))
    expected = net.head(hidden.mean((2, 3)))

    wrapped = sv.wrap(net, x)
    wrapped.calibrate([x], CONV_NORM_ACT)
    with wrapped.quantized(sv.Scheme.only("second", CONV_NORM_ACT)):
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-6)


def test_a_function_behind_a_layer_is_refused_where_the_placement_needs_its_output(x: Tensor) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x))

    wrapped = sv.wrap(Functional().eval(), x)
    with pytest.raises(RecipeError, match="activation ReLU is written as a function"):
        wrapped.calibrate([x], CONV_NORM_ACT)
