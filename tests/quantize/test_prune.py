"""Pruning masks against ten lines of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.prune import magnitude_mask, pattern_mask, prune_weight, pruning_mask
from sensitivity.quantize.recipes import Prune
from sensitivity.records import Pruning


def example(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(6))


def numpy_magnitude_mask(weight: NDArray[np.float32], removed: int) -> NDArray[np.bool_]:
    order = sorted(range(weight.size), key=lambda i: (abs(weight.flat[i]), i))
    mask = np.ones(weight.size, dtype=bool)
    mask[order[:removed]] = False
    return mask.reshape(weight.shape)


def numpy_pattern_mask(weight: NDArray[np.float32], n: int, m: int) -> NDArray[np.bool_]:
    """Of a weight (out, in, height, width)."""
    mask = np.zeros(weight.shape, dtype=bool)
    for out, row, column in np.ndindex(weight.shape[0], *weight.shape[2:]):
        for start in range(0, weight.shape[1], m):
            group = np.abs(weight[out, start : start + m, row, column])
            mask[out, start + np.argsort(group, kind="stable")[m - n :], row, column] = True
    return mask


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.29, 0.999])
def test_a_level_removes_the_smallest_magnitudes(level: float) -> None:
    weight = example(8, 5, 3, 3)
    expected = numpy_magnitude_mask(weight.numpy(), round(level * 360))
    np.testing.assert_array_equal(magnitude_mask(weight, level).numpy(), expected)


@given(st.integers(0, 99), st.integers(1, 400))
def test_a_level_prunes_what_torch_prunes(percent: int, size: int) -> None:
    module = nn.Linear(size, 1, bias=False)
    module.weight = nn.Parameter(example(size))
    l1_unstructured(module, "weight", percent / 100)  # type: ignore[no-untyped-call]
    assert torch.equal(magnitude_mask(example(size), percent / 100), module.weight_mask.bool())


@pytest.mark.parametrize(
    ("level", "size", "removed"), [(0.3, 5, 2), (0.5, 5, 2), (0.5, 7, 4), (0.9, 3, 3), (0.1, 4, 0)]
)
def test_half_an_element_goes_to_the_even_number(level: float, size: int, removed: int) -> None:
    assert int((~magnitude_mask(example(size), level)).sum()) == removed


def test_results_of_levels_that_were_rounded_down_are_not_gone_on_with() -> None:
    assert Prune(0.3).digest != "0eb9c195cda746e6"
    assert Prune("2:4").digest == "d2ae9f615ba8696f"


def test_of_equal_magnitudes_the_first_go_first() -> None:
    weight = torch.tensor([[1.0, -1.0, 1.0], [0.0, -1.0, 1.0]])
    assert magnitude_mask(weight, 0.5).tolist() == [[False, False, True], [False, True, True]]
    few_levels = (example(60, 60) * 2).round()
    np.testing.assert_array_equal(
        magnitude_mask(few_levels, 0.5).numpy(), numpy_magnitude_mask(few_levels.numpy(), 1800)
    )
    assert pattern_mask(torch.ones(1, 4), 2, 4).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (4, 8)])
def test_a_pattern_keeps_n_of_every_m_input_channels(n: int, m: int) -> None:
    weight = example(6, 16, 3, 2)
    mask = pattern_mask(weight, n, m)
    np.testing.assert_array_equal(mask.numpy(), numpy_pattern_mask(weight.numpy(), n, m))
    linear = example(6, 16)
    expected = numpy_pattern_mask(linear.numpy()[:, :, None, None], n, m)[:, :, 0, 0]
    np.testing.assert_array_equal(pattern_mask(linear, n, m).numpy(), expected)


def test_in_a_transposed_convolution_the_input_channels_are_axis_0() -> None:
    weight = example(16, 6, 3, 3)
    expected = numpy_pattern_mask(weight.movedim(0, 1).numpy(), 2, 4)
    np.testing.assert_array_equal(pattern_mask(weight, 2, 4, output_axis=1).movedim(0, 1).numpy(), expected)
    with pytest.raises(RecipeError, match=r"groups of 4 input channels, but each output .* reads 2"):
        pattern_mask(weight, 2, 4, output_axis=1, groups=8)


@pytest.mark.parametrize("inputs", [1, 3, 6])
def test_channels_that_do_not_divide_into_groups_are_refused(inputs: int) -> None:
    with pytest.raises(RecipeError, match=rf"2:4 pattern needs groups of 4 .* reads {inputs}\. Prune this"):
        pattern_mask(example(8, inputs, 3, 3), 2, 4)


def test_what_is_kept_is_kept_bit_for_bit_and_the_rest_is_zero() -> None:
    weight = example(8, 8, 3, 3)
    before = weight.clone()
    for pruning in (Pruning(level=0.4), Pruning(n=2, m=4)):
        mask = pruning_mask(weight, pruning)
        pruned = prune_weight(weight, pruning)
        assert torch.equal(pruned[mask], weight[mask])
        assert not pruned[~mask].any()
        assert 0 < int((~mask).sum()) < weight.numel()
        assert torch.equal(prune_weight(pruned, pruning), pruned)
    assert torch.equal(weight, before)
    transposed = prune_weight(weight, Pruning(n=1, m=2), output_axis=1, groups=2)
    assert torch.equal(transposed != 0, pattern_mask(weight, 1, 2, output_axis=1, groups=2))


def test_level_zero_changes_nothing() -> None:
    weight = example(3, 3)
    assert torch.equal(prune_weight(weight, Pruning(level=0.0)), weight)


def test_nan_has_no_magnitude() -> None:
    with pytest.raises(CalibrationError, match=r"weight of shape \(1, 2\) holds NaN"):
        prune_weight(torch.tensor([[1.0, torch.nan]]), Pruning(level=0.5))
