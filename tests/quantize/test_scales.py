"""Scales and zero points against torch's own observers, and where ranges are degenerate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.ao.quantization.observer import MinMaxObserver

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.scales import MIN_SCALE, params_from_range
from sensitivity.records import QuantSpec

BOUNDS = st.floats(-(2.0**100), 2.0**100, width=32)


def as_tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values if len(values) > 1 else values[0])


def test_the_largest_absolute_value_gets_the_largest_code() -> None:
    assert params_from_range(as_tensor(-254.0), as_tensor(100.0), QuantSpec("int8")).scale == 2.0
    assert params_from_range(as_tensor(-1.0), as_tensor(7.0), QuantSpec("int4")).scale == 1.0
    assert params_from_range(as_tensor(-896.0), as_tensor(1.0), QuantSpec("fp8_e4m3")).scale == 2.0
    assert params_from_range(as_tensor(-3.0), as_tensor(1.0), QuantSpec("log2")).scale == 3.0


@given(BOUNDS, BOUNDS)
def test_affine_parameters_are_those_of_torch(bound: float, other: float) -> None:
    low, high = as_tensor(min(bound, other)), as_tensor(max(bound, other))
    reference = MinMaxObserver(torch.quint8, torch.per_tensor_affine, eps=MIN_SCALE)
    reference(torch.stack([low, high]))
    scale, zero_point = reference.calculate_qparams()
    params = params_from_range(low, high, QuantSpec("uint8", symmetric=False))
    assert float(params.scale) == pytest.approx(float(scale), rel=1e-6)
    assert abs(int(params.zero_point) - int(zero_point)) <= 1  # torch rounds low / scale in float32
    assert abs(float(params.zero_point + low.clamp(max=0) / params.scale)) <= 0.5001


@given(BOUNDS, BOUNDS, st.sampled_from(["int8", "uint8", "int4", "int16"]))
def test_zero_has_a_code_of_its_own_in_any_affine_range(bound: float, other: float, name: str) -> None:
    spec = QuantSpec(name, symmetric=False)
    params = params_from_range(as_tensor(min(bound, other)), as_tensor(max(bound, other)), spec)
    assert params.qmin <= int(params.zero_point) <= params.qmax
    assert params.zero_point.dtype == torch.int32


def test_only_symmetric_signed_integers_are_narrowed() -> None:
    low, high = as_tensor(-1.0), as_tensor(2.0)

    def lowest(spec: QuantSpec) -> int:
        return params_from_range(low, high, spec, narrow=True).qmin

    assert lowest(QuantSpec("int8")) == -127
    assert lowest(QuantSpec("int8", symmetric=False)) == -128
    assert params_from_range(low, high, QuantSpec("int8")).qmin == -128


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, -1e-30])
def test_no_scale_is_zero_or_so_small_that_products_of_scales_are_lost(value: float) -> None:
    for symmetric in (True, False):
        params = params_from_range(as_tensor(value), as_tensor(value), QuantSpec("int8", symmetric=symmetric))
        assert float(params.scale) >= MIN_SCALE
        assert float(params.scale * params.scale) >= torch.finfo(torch.float32).tiny


def test_an_all_zero_channel_does_not_change_its_neighbours() -> None:
    spec = QuantSpec("int8", "per-channel")
    params = params_from_range(as_tensor(0.0, -127.0), as_tensor(0.0, 5.0), spec, axis=0)
    assert params.scale.tolist() == [MIN_SCALE, 1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_range_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match=r"is not finite: the tensor holds NaN or infinite"):
        params_from_range(as_tensor(0.0), as_tensor(bad), QuantSpec())


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(CalibrationError, match="range upside down"):
        params_from_range(as_tensor(1.0), as_tensor(0.0), QuantSpec())


def test_formats_without_negative_codes_say_so() -> None:
    with pytest.raises(RecipeError, match=r"no codes below zero, but the smallest value is -1"):
        params_from_range(as_tensor(-1.0), as_tensor(1.0), QuantSpec("uint8"))
    assert params_from_range(as_tensor(0.0), as_tensor(255.0), QuantSpec("uint8")).scale == 1.0


def test_the_axis_of_the_spec_goes_before_the_axis_of_the_caller() -> None:
    low, high = as_tensor(-1.0, -2.0), as_tensor(1.0, 2.0)
    assert params_from_range(low, high, QuantSpec(granularity="per-channel"), axis=0).axis == 0
    assert params_from_range(low, high, QuantSpec(granularity="per-channel", axis=3), axis=0).axis == 3
    assert params_from_range(low[0], high[0], QuantSpec(), axis=0).axis is None


def test_parameters_of_another_tensor_are_refused() -> None:
    low, high = as_tensor(-1.0, -2.0), as_tensor(1.0, 2.0)
    params = params_from_range(low, high, QuantSpec(granularity="per-channel"), axis=1)
    with pytest.raises(RecipeError, match=r"scales of shape \(2,\); a tensor of shape \(1, 3, 4\) needs \(3,\)"):
        params.spread(params.scale, torch.Size((1, 3, 4)))
    with pytest.raises(RecipeError, match=r"axis 1 does not exist in a tensor of 1 dimensions"):
        params.spread(params.scale, torch.Size((3,)))


def test_parameters_move_to_another_device() -> None:
    params = params_from_range(as_tensor(-1.0), as_tensor(1.0), QuantSpec()).to("meta")
    assert params.scale.is_meta
    assert params.zero_point.is_meta
