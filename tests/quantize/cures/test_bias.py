"""A corrected bias takes away the mean error, as measured by running the layer itself."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity.quantize.cures.sums
from sensitivity.quantize.cures.bias import bias_correction
from sensitivity.quantize.cures.patches import Geometry
from sensitivity.quantize.cures.statistics import InputStatistics, StatisticKind
from sensitivity.quantize.cures.sums import InputSums
from sensitivity.quantize.fake import fake_quantize
from sensitivity.quantize.scales import params_from_range
from sensitivity.quantize.weights import quantize_weight
from sensitivity.records import QuantSpec
from tests.quantize.cures.layers_to_cure import LAYERS
from tests.quantize.cures.test_patches import made

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def test_two_weights_by_hand() -> None:
    inputs = InputStatistics(mean=np.array([[2.0, 3.0]]), shift=np.array([[0.5, -1.0]]))
    weight, quantized = torch.tensor([[1.5, -0.5]]), torch.tensor([[1.0, 0.0]])
    # 1.5 * 2 - 0.5 * 3 = 1.5 in float; 1 * (2 + 0.5) + 0 = 2.5 quantized
    assert bias_correction(weight, quantized, inputs, Geometry()).tolist() == [-1.0]


EXACT = ("linear", "linear over tokens", "pointwise")
"""Layers that read every position alike, so that the mean error of a channel's values is that of each tap."""


def mean_errors(name: str, *, quantizes_activations: bool) -> tuple[Tensor, Tensor]:
    """Mean error of each output channel without and with a corrected bias, by running the layer."""
    layer, geometry, weight, x = made(name)
    if quantizes_activations:  # many small values, as behind a ReLU: most are rounded to zero, which shifts the mean
        sides = [side if name in EXACT else 5 * side for side in x.shape[2:]]
        x = torch.randn(*x.shape[:2], *sides).relu() ** 3
    x = x + 0.3  # or the means are near zero, and so are the errors
    kinds: frozenset[StatisticKind] = frozenset({"means", "shifts"} if quantizes_activations else {"means"})
    sums = InputSums(geometry, kinds)
    sums.observe(0, x)
    coarse = partial(fake_quantize, params=params_from_range(x.min(), x.max(), QuantSpec("int3")))
    inputs = sums.statistics(lambda _: coarse, kinds)
    assert inputs is not None
    expected = layer(x)
    quantized = quantize_weight(weight, QuantSpec("int3", "per-channel"), output_axis=int(geometry.transposed))
    correction = bias_correction(weight, quantized, inputs, geometry).float()
    seen, own = coarse(x) if quantizes_activations else x, layer._parameters["bias"]
    layer._parameters["weight"] = nn.Parameter(quantized, requires_grad=False)
    bare = layer(seen)
    corrected = correction if own is None else own + correction
    layer._parameters["bias"] = nn.Parameter(corrected, requires_grad=False)
    channel = expected.dim() - 1 if isinstance(layer, nn.Linear) else 1
    others = [axis for axis in range(expected.dim()) if axis != channel]
    return (bare - expected).mean(others), (layer(seen) - expected).mean(others)


@pytest.mark.parametrize("name", LAYERS)
def test_with_it_the_mean_of_every_output_channel_is_that_of_the_float_layer(name: str) -> None:
    before, after = mean_errors(name, quantizes_activations=False)
    assert before.abs().max() > 1e-3
    assert after.abs().max() < 2e-6


@pytest.mark.parametrize("name", LAYERS)
def test_the_error_of_the_activations_is_taken_away_besides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity.quantize.cures.sums, "KEPT_POSITIONS", 10**6)
    before, after = mean_errors(name, quantizes_activations=True)
    assert before.norm() > 1e-2
    assert after.norm() < (2e-6 if name in EXACT else 0.4 * before.norm())
