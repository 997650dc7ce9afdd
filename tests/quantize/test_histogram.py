"""The growing histogram against numpy's, and its independence of order and batching."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.errors import CalibrationError
from sensitivity.quantize.histogram import BINS, AdaptiveHistogram, sampled

Numbers = NDArray[np.float32]
VALUES = arrays(np.float32, st.integers(1, 30), elements=st.floats(-(2.0**120), 2.0**120, width=32))


def counted(*parts: Tensor, absolute: bool = False) -> AdaptiveHistogram:
    histogram = AdaptiveHistogram(absolute=absolute)
    for part in parts:
        histogram.add(part)
    return histogram


def same(first: AdaptiveHistogram, other: AdaptiveHistogram) -> bool:
    first_state, other_state = dict(vars(first)), dict(vars(other))
    return bool(np.array_equal(first_state.pop("counts"), other_state.pop("counts"))) and first_state == other_state


def gaussian(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("absolute", [True, False])
def test_counts_equal_those_of_numpy_over_the_same_edges(absolute: bool) -> None:
    values = gaussian(300_000)
    histogram = counted(*torch.split(values, 1000), absolute=absolute)
    edges = np.arange(histogram.first, histogram.first + len(histogram.counts) + 1) * histogram.width
    numbers = values.abs().numpy() if absolute else values.numpy()
    expected, _ = np.histogram(numbers, edges)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.total == len(values)
    assert (histogram.low, histogram.high) == (float(values.min()), float(values.max()))


@pytest.mark.parametrize("tiny", [-1.4e-45, -1e-38, 1.4e-45, -0.0])
def test_a_value_that_the_width_underflows_stays_on_its_side_of_zero(tiny: float) -> None:
    values = torch.tensor([tiny, 2.0**40])
    at_once, one_by_one = counted(values), counted(values[:1], values[1:])
    assert same(one_by_one, at_once)
    assert at_once.first == (-1 if tiny < 0 else 0)
    assert at_once.counts[0] == 1


@given(VALUES, st.integers(0, 29), st.booleans(), st.randoms(use_true_random=False))
def test_neither_batching_nor_order_changes_anything(values: Numbers, cut: int, absolute: bool, random: Random) -> None:
    at_once = counted(torch.from_numpy(values), absolute=absolute)
    shuffled = values.tolist()
    random.shuffle(shuffled)
    parts = [torch.tensor(part) for part in (shuffled[:cut], shuffled[cut:]) if part]
    assert same(counted(*parts, absolute=absolute), at_once)
    assert at_once.total == len(values)


@given(VALUES, st.booleans())
def test_a_bin_is_at_most_a_1023rd_of_the_range_and_there_are_at_most_2048(values: Numbers, absolute: bool) -> None:
    histogram = counted(torch.from_numpy(values), absolute=absolute)
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    span = max(-low, high) if absolute else float(high) - float(low)
    assert len(histogram.counts) <= BINS
    assert histogram.width <= max(span / 1023, 2.0**-126)


def test_all_zeros_first_do_not_coarsen_the_bins() -> None:
    values = gaussian(100) * 1e-6
    assert counted(torch.zeros(5), values).width == counted(values).width


@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_within_a_bin_of_the_exact_one(values: Numbers, share: float) -> None:
    histogram = counted(torch.from_numpy(values))
    exact = np.quantile(values.astype(np.float64), share)
    assert abs(histogram.quantile(share) - exact) <= histogram.width * 1.0001


def test_values_that_are_not_finite_are_refused_and_not_counted() -> None:
    histogram = counted(torch.ones(3))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(CalibrationError, match=r"tensor of shape \(2,\) holds NaN or infinite"):
            histogram.add(torch.tensor([5.0, bad]))
    assert same(histogram, counted(torch.ones(3)))


# --- sampling --------------------------------------------------------------------------------------------------------


def test_a_sample_takes_every_nth_value_of_each_image_or_the_next_n_that_shares_no_divisor() -> None:
    x = torch.arange(2.0 * 2**14).reshape(2, 2**14)
    first, second = sampled(x, 8)
    assert torch.equal(first, x[0, ::9])  # 8 divides 2**14: it would meet the same columns in every row
    assert torch.equal(second, x[1, ::9])
    odd = torch.arange(1.0 * 3 * 5 * 7**5)[None]
    [only] = sampled(odd, 14)
    assert torch.equal(only, odd[0, ::16])


@pytest.mark.parametrize("side", [64, 96, 128, 256])
def test_a_sample_meets_every_row_column_and_channel_alike(side: int) -> None:
    channel, row, column = torch.meshgrid(torch.arange(16), torch.arange(side), torch.arange(side), indexing="ij")
    for axis, size in ((channel, 16), (row, side), (column, side)):
        [seen] = sampled(axis[None].float(), 8)
        shares = torch.bincount(seen.long(), minlength=size) / len(seen)
        assert shares.min() > 0.9 / size
        assert shares.max() < 1.1 / size


def test_images_of_few_values_and_scalars_are_counted_in_full() -> None:
    for x in (gaussian(3 * 1000).reshape(3, 1000), gaussian(2**15), torch.tensor(3.0)):
        sparse = AdaptiveHistogram(absolute=False)
        sparse.add(x, every=8)
        assert same(sparse, counted(x))


def test_a_sampled_histogram_keeps_the_extremes_and_a_share_of_the_counts() -> None:
    x = gaussian(4 * 2**16).reshape(4, 1, 256, 256)
    x[1, 0, 0, 1] = 40.0  # not among the sampled
    sparse = AdaptiveHistogram(absolute=False)
    sparse.add(x, every=8)
    assert sparse.high == 40.0
    assert sparse.total == 4 * len(range(0, 2**16, 9))


def test_memory_order_makes_no_difference_to_a_full_count_nor_to_a_sampled_one() -> None:
    x = gaussian(2 * 16 * 64 * 64).reshape(2, 16, 64, 64)
    for every in (1, 8):
        histogram, other = AdaptiveHistogram(absolute=True), AdaptiveHistogram(absolute=True)
        histogram.add(x, every=every)
        other.add(x.to(memory_format=torch.channels_last), every=every)
        assert same(histogram, other)
