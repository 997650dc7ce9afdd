"""Range searches against numpy, a plain loop and the published pseudocode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.quantize.fake import fake_quantize
from sensitivity.quantize.scales import params_from_range
from sensitivity.quantize.search import entropy_bins, mse_range, percentile_range
from sensitivity.records import QuantSpec


def heavy_tailed(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=generator) ** 3


@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.9, 100.0])
def test_percentiles_of_rows_are_those_of_numpy(percentile: float) -> None:
    rows = heavy_tailed(5, 1234)
    low, high = percentile_range(rows, percentile, symmetric=False)
    rest = (100 - percentile) / 2
    np.testing.assert_allclose(low, np.percentile(rows.numpy(), rest, axis=1), rtol=1e-5)
    np.testing.assert_allclose(high, np.percentile(rows.numpy(), 100 - rest, axis=1), rtol=1e-5)
    low, high = percentile_range(rows, percentile, symmetric=True)
    bound = np.percentile(rows.abs().numpy(), percentile, axis=1)
    np.testing.assert_allclose(torch.maximum(-low, high), bound, rtol=1e-5)


def test_a_symmetric_percentile_never_reaches_beyond_the_values() -> None:
    low, high = percentile_range(torch.rand(2, 100) + 1, 99.0, symmetric=True)
    assert bool((low >= 1).all() and (high <= 2).all())


@pytest.mark.parametrize("spec", [QuantSpec("int4"), QuantSpec("int8"), QuantSpec("int3", symmetric=False)])
def test_the_mse_range_is_the_best_of_a_hundred_for_each_row(spec: QuantSpec) -> None:
    rows = heavy_tailed(4, 500)
    low, high = mse_range(rows, rows.amin(1), rows.amax(1), spec, narrow=True)
    for row, chosen_low, chosen_high in zip(rows, low, high, strict=True):
        errors = []
        for step in range(100):
            factor = 1 - step / 100
            params = params_from_range(row.min() * factor, row.max() * factor, spec, narrow=True)
            errors.append(float((fake_quantize(row, params) - row).double().square().sum()))
        best = 1 - int(np.argmin(errors)) / 100
        assert float(chosen_low) == pytest.approx(float(row.min()) * best)
        assert float(chosen_high) == pytest.approx(float(row.max()) * best)
        assert spec.format == "int8" or best < 1.0


def test_of_equally_good_ranges_the_widest_is_chosen() -> None:
    ends = torch.tensor([-1.0]), torch.tensor([1.0])
    assert mse_range(torch.zeros(1, 3), *ends, QuantSpec("int8"), narrow=True) == ends


def test_counts_in_the_mse_search_stand_for_repeated_values() -> None:
    rows, counts = torch.tensor([[0.1, 0.4, 9.0]]), torch.tensor([[500, 300, 1]])
    spec = QuantSpec("int4")
    extremes = rows.amin(1), rows.amax(1)
    weighted = mse_range(rows, *extremes, spec, narrow=True, counts=counts)
    repeated = mse_range(rows.repeat_interleave(counts[0], dim=1), *extremes, spec, narrow=True)
    assert torch.equal(torch.stack(weighted), torch.stack(repeated))
    assert not torch.equal(torch.stack(weighted), torch.stack(mse_range(rows, *extremes, spec, narrow=True)))


def published_entropy_bins(counts: list[float], levels: int) -> int:
    """The pseudocode of the slides, bin by bin; first bin set to the second, an empty last bin smoothed as in MXNet."""
    counts = [counts[1], *counts[1:]]
    divergences = {}
    for bins in range(levels, len(counts) + 1):
        reference = counts[:bins]
        reference[-1] += sum(counts[bins:])
        groups = [j * levels // bins for j in range(bins)]
        candidate = [0.0] * bins
        for group in range(levels):
            members = [j for j in range(bins) if groups[j] == group and counts[j] > 0]
            for j in members:
                candidate[j] = sum(counts[i] for i in members) / len(members)
        if candidate[-1] == 0 < reference[-1]:
            candidate[-1] = 1e-4
        total_p, total_q = sum(reference), sum(candidate)
        divergence = 0.0
        for p, q in zip(reference, candidate, strict=True):
            if p > 0:
                divergence += p / total_p * np.log(p / total_p / (q / total_q))
        divergences[bins] = divergence
    return max(bins for bins, divergence in divergences.items() if divergence <= min(divergences.values()) + 1e-12)


def histogram_of(kind: str) -> NDArray[np.int64]:
    random = np.random.default_rng(5)
    values = {
        "gaussian": np.abs(random.normal(size=20_000)),
        "laplace": np.abs(random.laplace(size=20_000)),
        "rectified": np.maximum(random.normal(size=20_000), 0),
        "outlier": np.abs(np.append(random.normal(size=20_000), 30.0)),
        "uniform": random.uniform(size=20_000),
    }[kind]
    return np.histogram(values, 180, (0, values.max()))[0].astype(np.int64)


@pytest.mark.parametrize("levels", [8, 32])
@pytest.mark.parametrize("kind", ["gaussian", "laplace", "rectified", "outlier", "uniform"])
def test_the_entropy_search_is_the_published_one(kind: str, levels: int) -> None:
    counts = histogram_of(kind)
    assert entropy_bins(counts, levels) == published_entropy_bins([float(count) for count in counts], levels)


def test_an_outlier_is_clipped_and_too_few_bins_are_kept_whole() -> None:
    assert entropy_bins(histogram_of("outlier"), 32) < 90
    assert entropy_bins(np.array([5, 4, 3], dtype=np.int64), 128) == 3
    assert entropy_bins(np.array([5] + [0] * 9, dtype=np.int64), 4) == 10


def test_exact_zeros_do_not_count_for_the_entropy() -> None:
    counts = histogram_of("gaussian")
    more_zeros = counts.copy()
    more_zeros[0] += 1_000_000
    assert entropy_bins(more_zeros, 32) == entropy_bins(counts, 32)
