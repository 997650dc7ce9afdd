"""Activations with a zero point, and with a scale for each channel: exact on engines, also where zeros are padded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines.registry import kind_of
from sensitivity.deploy.verify.integer import integer_exact
from sensitivity.errors import ExportError
from tests.deploy.nets import has_amx

WEIGHTS = sv.QuantSpec("int7", "per-channel")
AFFINE = sv.Recipe("affine", weights=WEIGHTS, activations=sv.QuantSpec("uint8", symmetric=False))
SIGNED_AFFINE = sv.Recipe("signed affine", weights=WEIGHTS, activations=sv.QuantSpec("int8", symmetric=False))
BY_CHANNEL = sv.Recipe("by channel", WEIGHTS, sv.QuantSpec("uint8", "per-channel", symmetric=False))
SYMMETRIC_BY_CHANNEL = sv.Recipe("symmetric by channel", WEIGHTS, sv.QuantSpec("int8", "per-channel"))


class Padded(nn.Module):
    """Convolutions that pad in every way, behind activations that reach below zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.depthwise = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.dilated = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.grouped = nn.Conv2d(16, 16, 5, stride=2, padding=2, groups=4)
        self.same, self.reflected = (
            nn.Conv2d(16, 16, 3, padding="same"),
            nn.Conv2d(16, 8, 3, 1, 1, padding_mode="reflect"),
        )
        self.last = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(x), 0.3)
        x = F.leaky_relu(self.depthwise(x), 0.3)
        x = F.silu(self.dilated(x))
        x = F.leaky_relu(self.grouped(x), 0.3)
        x = F.leaky_relu(self.reflected(F.hardswish(self.same(x))), 0.3)
        return self.last(x)


class Uneven(nn.Module):
    """Channels of very different sizes in front of a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.depthwise = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 8, 1)
        scale = torch.logspace(-1, 1, 16).reshape(16, 1, 1, 1)
        self.first.weight.data *= scale
        self.depthwise.weight.data /= scale

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.depthwise(F.leaky_relu(self.first(x), 0.3))))


X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1)) + 0.7


def calibrated(make: Callable[[], nn.Module], *recipes: sv.Recipe) -> sv.Wrapped:
    wrapped = sv.wrap(make().eval(), X[:1])
    wrapped.calibrate(X, recipes)
    return wrapped


in_float_with_amx = pytest.mark.skipif(
    has_amx(), reason="with AMX OpenVINO runs signed codes with a zero point in float"
)


@pytest.mark.parametrize(
    ("recipe", "engine"),
    [
        (AFFINE, "openvino"),
        pytest.param(SIGNED_AFFINE, "openvino", marks=in_float_with_amx),
        (AFFINE, "onnxruntime"),
    ],
)
def test_a_zero_point_and_padding_are_exact_in_every_code(recipe: sv.Recipe, engine: str) -> None:
    wrapped = calibrated(Padded, recipe)
    deployed = wrapped.deploy(sv.Scheme.all(recipe), engine)
    plan = deployed.plan
    zero_points = [int(params.zero_point) for layer in plan.layers if (params := plan.input_params(layer)) is not None]
    assert len(set(zero_points)) > 3
    verification = wrapped.verify(deployed)
    assert verification.passed
    assert [check.codes > 0 for check in verification.layers] == [True] * 7
    assert all(check.code_share is not None and check.code_share <= 2e-4 for check in verification.layers)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("recipe", [BY_CHANNEL, SYMMETRIC_BY_CHANNEL], ids=["affine", "symmetric"])
def test_a_scale_for_each_channel_in_front_of_a_depthwise_convolution_runs_in_int8(
    recipe: sv.Recipe, engine: str
) -> None:
    wrapped = calibrated(Uneven, AFFINE, recipe)
    deployed = wrapped.deploy(sv.Scheme.all(AFFINE).quantize("@depthwise", recipe), engine)
    verification = wrapped.verify(deployed)
    assert verification.passed
    checks = {wrapped.layers[check.layer].module: check for check in verification.layers}
    assert checks["depthwise"].executed == ("int8" if engine == "openvino" else "fp32")
    assert all(check.code_share is not None and check.code_share <= 2e-4 for check in checks.values())
    assert kind_of(engine).capabilities.depthwise_channel_activations


def test_a_scale_for_each_channel_loses_less_where_channels_are_uneven_and_integers_agree() -> None:
    wrapped = calibrated(Uneven, AFFINE, BY_CHANNEL)
    depthwise = "@depthwise"
    with torch.no_grad():
        expected, errors = wrapped.model(X), []
        for recipe in (AFFINE, BY_CHANNEL):
            scheme = sv.Scheme.only(depthwise, replace(recipe, weights=None))
            with wrapped.quantized(scheme) as model:
                errors.append(float((model(X) - expected).square().sum()))
        plan = wrapped.plan(sv.Scheme.all(AFFINE).quantize(depthwise, BY_CHANNEL))
        with plan.simulated() as model:
            simulated = model(X)
        with integer_exact(plan) as model:
            torch.testing.assert_close(model(X), simulated, rtol=1e-5, atol=1e-5)
    assert errors[1] < 0.1 * errors[0]


def test_a_scale_for_each_channel_is_refused_where_a_layer_sums_over_channels_or_the_engine_has_none() -> None:
    wrapped = calibrated(Uneven, AFFINE, BY_CHANNEL)
    with pytest.raises(ExportError, match=r"recipe 'by channel' of first:0:0 cannot be deployed.*@depthwise"):
        wrapped.plan(sv.Scheme.all(BY_CHANNEL))
    scheme = sv.Scheme.only("@depthwise", BY_CHANNEL)
    with pytest.raises(ExportError, match="must be quantized per tensor: TensorRT has no other"):
        wrapped.plan(scheme, target="tensorrt")
    other = replace(BY_CHANNEL, activations=sv.QuantSpec("int8", "per-channel", axis=2))
    with pytest.raises(ExportError, match="per tensor, or per channel in front of depthwise"):
        wrapped.plan(sv.Scheme.only("@depthwise", other))
