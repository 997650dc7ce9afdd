"""Fake quantization against torch's kernels and float8 types, and its properties on any input."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.fake import Rounding, activation_quantizer, dequantize, fake_quantize, quantize
from sensitivity.quantize.formats import tensor_type
from sensitivity.quantize.scales import MIN_SCALE, QuantParams, params_from_range
from sensitivity.records import QuantSpec
from sensitivity.records.recipes.formats import formats

FORMATS = tuple(number_format.name for number_format in formats())
INTEGERS = tuple(name for name in FORMATS if "int" in name)
SPECS = tuple(QuantSpec(name) for name in FORMATS if name != "uint8") + tuple(
    QuantSpec(name, symmetric=False) for name in INTEGERS
)


def tensors() -> st.SearchStrategy[Tensor]:
    values = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
    return arrays(np.float32, st.integers(1, 40), elements=values).map(torch.from_numpy)


def params_of(x: Tensor, spec: QuantSpec, *, narrow: bool = False) -> QuantParams:
    return params_from_range(x.min(), x.max(), spec, narrow=narrow)


def same_bits(first: Tensor, other: Tensor) -> bool:
    return first.dtype == other.dtype and torch.equal(*(t.contiguous().view(torch.uint8) for t in (first, other)))


def example(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def takes_bfloat16() -> bool:
    """Whether this torch's kernel does; that of 2.4 does not, and later ones give what float32 gives, rounded."""
    try:
        torch.fake_quantize_per_tensor_affine(torch.zeros(1, dtype=torch.bfloat16), 1.0, 0, -128, 127)
    except RuntimeError:
        return False
    return True


KERNEL_TAKES_BFLOAT16 = takes_bfloat16()


# --- against torch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", INTEGERS)
def test_one_scale_gives_the_bits_of_the_torch_kernel(name: str, symmetric: bool, dtype: torch.dtype) -> None:
    x = example(4, 8, 40, 40).to(dtype)
    x = x.abs() if name == "uint8" and symmetric else x
    params = params_of(x, QuantSpec(name, symmetric=symmetric))
    kernel = partial(torch.fake_quantize_per_tensor_affine, scale=params.scale, zero_point=params.zero_point)
    computed_in = torch.float32 if dtype == torch.bfloat16 and not KERNEL_TAKES_BFLOAT16 else dtype
    expected = kernel(x.to(computed_in), quant_min=params.qmin, quant_max=params.qmax)
    assert same_bits(fake_quantize(x, params), expected.to(dtype))


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_scale_a_channel_gives_the_bits_of_the_torch_kernel(symmetric: bool, axis: int) -> None:
    x = example(6, 5, 16, 17) * 10
    others = [i for i in range(4) if i != axis]
    spec = QuantSpec("int8", "per-channel", symmetric=symmetric, axis=axis)
    params = params_from_range(x.amin(others), x.amax(others), spec, narrow=True)
    expected = torch.fake_quantize_per_channel_affine(
        x, params.scale, params.zero_point, axis, params.qmin, params.qmax
    )
    assert same_bits(fake_quantize(x, params), expected)


@given(tensors(), st.floats(2**-20, 2**10, width=32), st.integers(-128, 127))
def test_any_scale_and_zero_point_agree_with_the_torch_kernel(x: Tensor, scale: float, zero_point: int) -> None:
    spec = QuantSpec("int8", symmetric=False)
    low = torch.tensor((-128 - zero_point) * scale, dtype=torch.float64)
    high = torch.tensor((127 - zero_point) * scale, dtype=torch.float64)
    params = params_from_range(low, high, spec)
    expected = torch.fake_quantize_per_tensor_affine(x, params.scale, params.zero_point, -128, 127)
    assert same_bits(fake_quantize(x, params), expected)


@pytest.mark.parametrize(("name", "dtype"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_fp8_is_the_cast_of_torch_at_a_scale_that_maps_the_largest_value_to_the_largest_number(
    name: str, dtype: torch.dtype
) -> None:
    x = example(8, 1000)
    params = params_of(x, QuantSpec(name))
    assert float(x.abs().max() / params.scale) == pytest.approx(torch.finfo(dtype).max, rel=1e-6)
    unit = params_from_range(torch.tensor(0.0), torch.tensor(torch.finfo(dtype).max), QuantSpec(name))
    assert unit.scale == 1.0
    assert same_bits(fake_quantize(x * 100, unit), (x * 100).to(dtype).float())
    assert same_bits(quantize(x * 100, unit), (x * 100).to(dtype))


def test_fp8_saturates_where_the_cast_of_torch_does_not() -> None:
    unit = params_from_range(torch.tensor(0.0), torch.tensor(448.0), QuantSpec("fp8_e4m3"))
    assert fake_quantize(torch.tensor([1e6, -torch.inf]), unit).tolist() == [448.0, -448.0]


def test_log2_is_the_nearest_power_of_two_on_a_logarithmic_scale() -> None:
    x = torch.cat([example(5000), torch.tensor([0.0, 1e-30])])
    params = params_of(x, QuantSpec("log2"))
    top = float(x.abs().max())
    exponents = np.rint(np.log2(np.maximum(np.abs(x.double().numpy()), 1e-300) / top))
    expected = np.where(exponents < -6, 0.0, np.sign(x.numpy()) * top * 2.0**exponents)
    np.testing.assert_array_equal(fake_quantize(x, params).numpy(), expected.astype(np.float32))


def test_log2_rounds_at_the_square_root_of_two_and_saturates() -> None:
    unit = params_from_range(torch.tensor(-1.0), torch.tensor(1.0), QuantSpec("log2"))
    below = torch.tensor(0.5**0.5)  # the float32 nearest to it is below it
    above = torch.nextafter(below, torch.tensor(1.0))
    x = torch.stack([below, above, torch.tensor(-1.9)])
    assert fake_quantize(x, unit).tolist() == [0.5, 1.0, -1.0]
    assert quantize(x, unit).tolist() == [6, 7, -7]


# --- edges -----------------------------------------------------------------------------------------------------------


def test_halves_are_rounded_to_even() -> None:
    unit = params_from_range(torch.tensor(-127.0), torch.tensor(127.0), QuantSpec("int8"))
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert fake_quantize(halves, unit, rounding="torch").tolist() == [-2, -2, 0, 0, 2, 2]
    assert fake_quantize(halves, unit, rounding="onnx").tolist() == [-2, -2, 0, 0, 2, 2]


def test_the_two_ways_to_divide_differ_only_next_to_a_half() -> None:
    x = example(8, 64, 80, 80)
    params = params_of(x, QuantSpec("int8"))
    codes, onnx = quantize(x, params).int(), quantize(x, params, rounding="onnx").int()
    different = codes != onnx
    assert 0 < int(different.sum()) < 1e-5 * x.numel()
    assert int((codes - onnx).abs().max()) == 1
    distance = (x[different].double() / params.scale.double()).frac().abs() - 0.5
    assert float(distance.abs().max()) < 1e-5
    with pytest.raises(RecipeError, match="rounding 'floor' is not known"):
        quantize(x, params, rounding="floor")  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", SPECS)
def test_nan_is_not_hidden_and_infinities_saturate(spec: QuantSpec) -> None:
    x = torch.tensor([-1.0, 0.5, 1.0])
    params = params_of(x, spec)
    strange = fake_quantize(torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38]), params)
    assert torch.isnan(strange[0])
    ends = fake_quantize(torch.tensor([1e6, -1e6, 1e6]), params)
    assert torch.equal(strange[1:], ends)
    with pytest.raises(CalibrationError, match="holds NaN, which has no"):
        quantize(torch.tensor([torch.nan]), params)


def test_integers_have_no_negative_zero() -> None:
    unit = params_from_range(torch.tensor(-127.0), torch.tensor(127.0), QuantSpec("int8"))
    assert not torch.signbit(fake_quantize(torch.tensor([-0.1, -0.0]), unit)).any()


def test_an_all_zero_tensor_stays_zero() -> None:
    for spec in SPECS:
        params = params_of(torch.zeros(4), spec)
        assert params.scale == MIN_SCALE
        assert fake_quantize(torch.zeros(4), params).tolist() == [0.0] * 4


def test_input_is_kept_and_type_shape_and_memory_format_come_back() -> None:
    x = example(2, 3, 4, 5).to(memory_format=torch.channels_last)
    before = x.clone()
    for name in ("int8", "fp8_e4m3", "log2"):
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            result = fake_quantize(x.to(dtype), params_of(x, QuantSpec(name)))
            assert (result.dtype, result.shape) == (dtype, x.shape)
            assert result.is_contiguous(memory_format=torch.channels_last)
    assert same_bits(x, before)


def test_integer_tensors_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"only floating-point tensors can be quantized, not torch.int64"):
        fake_quantize(torch.arange(3), params_of(torch.ones(1), QuantSpec()))


def test_groups_run_along_the_rest_of_a_channel_and_the_last_may_be_short() -> None:
    x = example(3, 2, 5)  # axis 1: 2 channels of 15 elements, in groups of 4, 4, 4, 3
    low = torch.stack([torch.stack([g.min() for g in torch.split(x[:, c].reshape(-1), 4)]) for c in range(2)])
    high = torch.stack([torch.stack([g.max() for g in torch.split(x[:, c].reshape(-1), 4)]) for c in range(2)])
    spec = QuantSpec("int4", "per-group", group_size=4)
    grouped = fake_quantize(x, params_from_range(low, high, spec, axis=1))
    for channel in range(2):
        parts = torch.split(x[:, channel].reshape(-1), 4)
        expected = torch.cat([fake_quantize(part, params_of(part, QuantSpec("int4"))) for part in parts])
        assert same_bits(grouped[:, channel].reshape(-1), expected)


def test_it_takes_no_longer_than_the_torch_kernel() -> None:
    x = example(8, 64, 80, 80)
    params = params_of(x, QuantSpec("int8"))

    def seconds(function: Callable[[], Tensor]) -> float:
        return min(timeit.repeat(function, number=1, repeat=5))

    duration_s = seconds(lambda: fake_quantize(x, params))
    kernel = seconds(lambda: torch.fake_quantize_per_tensor_affine(x, params.scale, params.zero_point, -128, 127))
    assert duration_s <= 1.1 * kernel


def test_a_prepared_quantizer_does_what_fake_quantize_does() -> None:
    x = example(2, 3, 8, 8)
    spec = QuantSpec("int8", symmetric=False)
    prepared = activation_quantizer((float(x.min()),), (float(x.max()),), spec)
    assert same_bits(prepared(x), fake_quantize(x, params_of(x, spec)))
    spec = QuantSpec("int8", "per-channel")
    low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
    each = activation_quantizer(low.tolist(), high.tolist(), spec, device="cpu", rounding="onnx")
    assert same_bits(each(x), fake_quantize(x, params_from_range(low, high, spec), rounding="onnx"))


# --- properties ------------------------------------------------------------------------------------------------------


@given(tensors(), st.sampled_from(SPECS), st.booleans())
def test_quantizing_twice_changes_nothing(x: Tensor, spec: QuantSpec, narrow: bool) -> None:
    params = params_of(x, spec, narrow=narrow)
    once = fake_quantize(x, params)
    assert torch.equal(fake_quantize(once, params), once)


@given(tensors(), st.sampled_from(SPECS), st.sampled_from(["torch", "onnx"]))
def test_going_over_codes_gives_the_same_values(x: Tensor, spec: QuantSpec, rounding: Rounding) -> None:
    params = params_of(x, spec)
    codes = quantize(x, params, rounding=rounding)
    assert codes.dtype == tensor_type(params.format)
    if params.format.kind != "float":
        assert params.qmin <= int(codes.min())
        assert int(codes.max()) <= params.qmax
    assert torch.equal(dequantize(codes, params), fake_quantize(x, params, rounding=rounding))


@given(tensors(), st.sampled_from([s for s in SPECS if "int" in s.format]), st.booleans())
def test_inside_the_range_the_error_is_at_most_half_a_step(x: Tensor, spec: QuantSpec, narrow: bool) -> None:
    params = params_of(x, spec, narrow=narrow)
    error = (fake_quantize(x, params).double() - x.double()).abs()
    rounding_of_float32 = 2.0**-23 * x.double().abs()
    assert bool((error <= params.scale.double() / 2 * (1 + 1e-4) + rounding_of_float32).all())


@given(tensors(), st.sampled_from([("fp8_e4m3", 4, -6), ("fp8_e5m2", 3, -14)]))
def test_the_relative_error_of_fp8_is_half_a_unit_of_its_mantissa(x: Tensor, form: tuple[str, int, int]) -> None:
    name, mantissa, smallest_exponent = form
    params = params_of(x, QuantSpec(name))
    error = (fake_quantize(x, params) - x).abs().double()
    normal = x.abs().double().clamp(min=float(params.scale) * 2.0**smallest_exponent)
    assert bool((error <= normal * 2.0**-mantissa * (1 + 1e-5)).all())


@given(tensors(), st.sampled_from(SPECS))
def test_larger_values_never_become_smaller_ones(x: Tensor, spec: QuantSpec) -> None:
    ordered = fake_quantize(x.sort().values, params_of(x, spec))
    assert bool((ordered.diff() >= 0).all())


@settings(max_examples=30)
@given(st.integers(0, 3), st.sampled_from(SPECS), st.integers(0, 1000))
def test_per_channel_is_per_tensor_on_each_slice(axis: int, spec: QuantSpec, seed: int) -> None:
    x = example(2, 3, 4, 5, seed=seed)
    each = QuantSpec(spec.format, "per-channel", symmetric=spec.symmetric)
    others = [i for i in range(4) if i != axis]
    whole = fake_quantize(x, params_from_range(x.amin(others), x.amax(others), each, axis=axis))
    for index in range(x.shape[axis]):
        part = x.select(axis, index)
        assert torch.equal(whole.select(axis, index), fake_quantize(part, params_of(part, spec)))
