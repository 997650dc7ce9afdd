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


@pytest.mark.filterwarnings("ignore:One of rtol or atol is not valid")
def test_so_is_one_whose_norm_makes_it_so() -> None:
    model = net()
    wrapped = sv.wrap(model, torch.randn(1, 3, 8, 8))
    with torch.no_grad():
        model[1].weight[0] = math.nan
    with pytest.raises(CalibrationError, match=r"^layers:0:0: its weight, or the norm behind it, holds NaN"):
        wrapped.plan(sv.Scheme.all(sv.INT8_WEIGHTS))
