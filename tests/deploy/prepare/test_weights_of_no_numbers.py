"""A weight that is not finite is refused by name before anything is folded or exported."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.errors import CalibrationError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("recipe", [sv.INT8, sv.INT8_WEIGHTS, sv.INT8_ACTIVATIONS], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_deploying_a_weight_that_is_not_finite_is_an_error_that_names_its_layer(
    engine: str, recipe: sv.Recipe, value: float
) -> None:
    pytest.importorskip(engine)
    model = net()
    images = torch.randn(4, 3, 8, 8)
    wrapped = sv.wrap(model, images[:1])
    with torch.no_grad():
        model[3].weight.view(-1)[1] = value
    if recipe.needs_calibration:
        wrapped.calibrate(images, recipe)
    with pytest.raises(CalibrationError, match=r"^layers:0:1: its weight.* holds NaN or infinite.*protect"):
        wrapped.deploy(sv.Scheme.all(recipe), engine)


@pytest.mark.parametrize("scheme", [sv.Scheme.all(sv.INT8_WEIGHTS), sv.Scheme()], ids=["quantized", "in float"])
@pytest.mark.parametrize("tensor", ["weight", "running_var"])
def test_so_is_one_whose_norm_makes_it_so(tensor: str, scheme: sv.Scheme) -> None:
    model = net()
    wrapped = sv.wrap(model, torch.randn(1, 3, 8, 8))
    with torch.no_grad():
        getattr(model[1], tensor)[0] = math.nan
    with pytest.raises(CalibrationError, match=r"^layers:0:0: the norm behind it, 1, scales channels by NaN"):
        wrapped.plan(scheme)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_outputs_that_are_nan_are_not_verified(engine: str) -> None:
    """They are equal, and prove nothing: the signal-to-noise ratio had been infinite."""
    pytest.importorskip("onnxruntime")
    model = net()
    wrapped = sv.wrap(model, torch.randn(1, 3, 8, 8))
    with torch.no_grad():
        model[3].bias[1] = math.nan
    verification = wrapped.verify(wrapped.deploy(sv.Scheme.all(sv.INT8_WEIGHTS), engine))
    assert not verification.passed
    assert "the simulation returns NaN" in str(verification)
