"""Weights: scales a tensor, a channel, a group, with every observer that weights can have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.fake import dequantize
from sensitivity.quantize.weights import quantize_weight, weight_codes, weight_params
from sensitivity.records import QuantSpec
from sensitivity.records.recipes.formats import formats
from sensitivity.records.recipes.observers import Granularity

PER_CHANNEL = QuantSpec("int8", "per-channel")


def example(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)) ** 3


@pytest.mark.parametrize("axis", [0, 1])
def test_each_output_channel_is_quantized_as_torch_does_with_the_narrow_range(axis: int) -> None:
    weight = example(8, 6, 3, 3)
    others = [i for i in range(4) if i != axis]
    scale = weight.abs().amax(others) / 127
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zeros, axis, -127, 127)
    assert torch.equal(quantize_weight(weight, PER_CHANNEL, output_axis=axis), expected)


def test_the_axis_of_a_spec_goes_before_the_output_axis() -> None:
    weight = example(8, 6, 3, 3)
    assert torch.equal(
        quantize_weight(weight, replace(PER_CHANNEL, axis=1), output_axis=0),
        quantize_weight(weight, PER_CHANNEL, output_axis=1),
    )
    with pytest.raises(RecipeError, match="axis 4 does not exist in a tensor of 4 dimensions"):
        quantize_weight(weight, replace(PER_CHANNEL, axis=4))


def test_the_lowest_code_is_used_only_when_the_range_is_not_narrow() -> None:
    weight = torch.tensor([[-1.0, 0.4, 1.0]])
    spec = QuantSpec("int2", "per-channel")
    assert weight_codes(weight, spec)[0].tolist() == [[-1, 0, 1]]
    wide = torch.tensor([[-4.0, 1.0, 1.0, 1.0]])
    best = QuantSpec("int2", "per-channel", observer="mse")
    assert int(weight_codes(wide, best, narrow=False)[0].min()) == -2
    assert int(weight_codes(wide, best)[0].min()) == -1


@pytest.mark.parametrize("name", [number_format.name for number_format in formats()])
@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel", "per-group"])
def test_codes_scale_and_zero_point_give_the_quantized_weight_back(name: str, granularity: Granularity) -> None:
    weight = example(4, 5, 3, 3)
    spec = QuantSpec(
        name,
        granularity,
        symmetric=name != "uint8",
        group_size=16 if granularity == "per-group" else None,
    )
    codes, scale, zero_point = weight_codes(weight, spec)
    shape = {"per-tensor": (), "per-channel": (4,), "per-group": (4, 3)}[granularity]
    assert scale.shape == zero_point.shape == shape
    assert codes.shape == weight.shape
    assert torch.equal(dequantize(codes, weight_params(weight, spec)), quantize_weight(weight, spec))


def test_finer_scales_have_smaller_errors() -> None:
    weight = example(16, 16, 3, 3)
    errors = [
        float((quantize_weight(weight, spec) - weight).square().sum())
        for spec in (QuantSpec("int4"), QuantSpec("int4", "per-channel"), QuantSpec("int4", "per-group", group_size=16))
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_percentile_of_a_weight_is_exact_in_each_channel(symmetric: bool) -> None:
    weight = example(5, 7, 3, 3)
    spec = replace(PER_CHANNEL, observer="percentile", percentile=95.0, symmetric=symmetric)
    scale = weight_params(weight, spec).scale.numpy()
    rows = weight.reshape(5, -1).numpy()
    if symmetric:
        expected = np.percentile(np.abs(rows), 95.0, axis=1) / 127
    else:
        expected = (np.percentile(rows, 97.5, axis=1) - np.percentile(rows, 2.5, axis=1)) / 255
    np.testing.assert_allclose(scale, expected, rtol=1e-5)


@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel", "per-group"])
def test_the_mse_observer_never_does_worse_than_min_max(granularity: Granularity) -> None:
    weight = example(6, 8, 3, 3)
    spec = QuantSpec("int4", granularity, group_size=24 if granularity == "per-group" else None)
    plain, best = quantize_weight(weight, spec), quantize_weight(weight, replace(spec, observer="mse"))
    assert float((best - weight).square().sum()) < float((plain - weight).square().sum())


def test_a_moving_average_of_one_weight_is_its_min_max_and_entropy_is_refused() -> None:
    weight = example(4, 3)
    assert torch.equal(
        quantize_weight(weight, replace(PER_CHANNEL, observer="ema")), quantize_weight(weight, PER_CHANNEL)
    )
    with pytest.raises(RecipeError, match="'entropy' chooses the range of activations"):
        quantize_weight(weight, replace(PER_CHANNEL, observer="entropy"))


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_weights_that_are_not_finite_or_empty_are_refused(observer: str) -> None:
    spec = replace(PER_CHANNEL, observer=observer)
    for bad in (torch.nan, torch.inf):
        weight = example(4, 30)
        weight[2, 3] = bad
        with pytest.raises(CalibrationError, match="holds NaN or infinite"):
            quantize_weight(weight, spec)
    with pytest.raises(RecipeError, match=r"weight of shape \(0, 3\) has no elements"):
        quantize_weight(torch.empty(0, 3), spec)


def test_an_all_zero_channel_stays_zero_and_the_weight_is_not_changed() -> None:
    weight = example(4, 3, 3, 3).requires_grad_()
    with torch.no_grad():
        weight[1] = 0.0
    before = weight.detach().clone()
    assert not quantize_weight(weight.detach(), PER_CHANNEL)[1].any()
    quantize_weight(weight, PER_CHANNEL)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_come_back_as_they_were(dtype: torch.dtype) -> None:
    weight = example(4, 3, 3, 3).to(dtype)
    result = quantize_weight(weight, PER_CHANNEL)
    assert result.dtype == dtype
    assert torch.equal(result, quantize_weight(weight.float(), PER_CHANNEL).to(dtype)) or dtype == torch.float64
