"""Compensated rounding is what solving for the best remaining weights after every step gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import sensitivity.quantize.cures.sums
from sensitivity.quantize.cures.patches import Geometry, Patches, filters_of, single_images
from sensitivity.quantize.cures.rounding import DAMPING, compensated_codes
from sensitivity.quantize.cures.statistics import InputStatistics, StatisticKind
from sensitivity.quantize.cures.sums import InputSums
from sensitivity.quantize.fake import dequantize, quantize
from sensitivity.quantize.prune import prune_weight
from sensitivity.quantize.scales import params_from_range
from sensitivity.quantize.weights import weight_params
from sensitivity.records import Pruning, QuantSpec
from tests.quantize.cures.layers_to_cure import LAYERS
from tests.quantize.cures.test_patches import EVERY, made

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

MOMENTS: frozenset[StatisticKind] = frozenset({"moments"})


def statistics_of(x: Tensor, geometry: Geometry) -> InputStatistics:
    sums = InputSums(geometry, MOMENTS)
    sums.observe(0, x)
    statistics = sums.statistics(lambda _: None, MOMENTS)
    assert statistics is not None
    return statistics


def with_moments(moments: list[list[float]], mean: list[float] | None = None) -> InputStatistics:
    means = np.zeros((1, len(moments))) if mean is None else np.array([mean])
    return InputStatistics(means, None, (np.array([moments], dtype=np.float32),), means)


def test_what_one_of_two_equal_inputs_loses_the_other_takes_over() -> None:
    unit = params_from_range(torch.tensor(-7.0), torch.tensor(7.0), QuantSpec("int4"), narrow=True)
    weight = torch.tensor([[0.4, 0.4], [2.3, -1.4]])
    assert quantize(weight, unit).tolist() == [[0, 0], [2, -1]]
    # both inputs are the same number: only the sum of the two weights matters, 0.8 and 0.9
    codes = compensated_codes(weight, unit, with_moments([[1.0, 1.0], [1.0, 1.0]]), Geometry())
    assert codes.sum(1).tolist() == [1, 1]
    assert codes.dtype == torch.int8


def test_independent_inputs_are_rounded_to_nearest() -> None:
    torch.manual_seed(0)
    weight, params = torch.randn(4, 3), params_from_range(torch.tensor(-3.0), torch.tensor(3.0), QuantSpec("int3"))
    codes = compensated_codes(weight, params, with_moments(np.diag([1.0, 4.0, 2.0]).tolist()), Geometry())
    assert torch.equal(codes, quantize(weight, params))


def test_without_the_error_of_the_mean_a_constant_input_costs_nothing() -> None:
    unit = params_from_range(torch.tensor(-7.0), torch.tensor(7.0), QuantSpec("int4"), narrow=True)
    weight, inputs = torch.tensor([[0.4, 0.4]]), with_moments([[1.0, 1.0], [1.0, 1.0]], mean=[1.0, 1.0])
    assert compensated_codes(weight, unit, inputs, Geometry()).sum() == 1
    assert compensated_codes(weight, unit, inputs, Geometry(), centred=True).tolist() == [[0, 0]]


def solved_step_by_step(
    filters: NDArray[np.float64], scale: NDArray[np.float64], moments: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Round the weight with the largest moment, solve for the rest anew, and so on: (filters, K) codes within int4."""
    damped = moments + DAMPING * np.mean(np.diag(moments)) * np.eye(len(moments))
    order = np.argsort(-np.diag(moments), kind="stable")
    codes = np.zeros_like(filters)
    for row, (weights, step) in enumerate(zip(filters, scale, strict=True)):
        wanted = weights.copy()
        for place, column in enumerate(order):
            codes[row, column] = np.clip(np.round(wanted[column] / step), -7, 7)
            done, left = order[: place + 1], order[place + 1 :]
            error = codes[row, done] * step - weights[done]
            # minimise (e, d) H (e, d) over d, the change of those not yet rounded
            change = -np.linalg.solve(damped[np.ix_(left, left)], damped[np.ix_(left, done)] @ error)
            wanted[left] = weights[left] + change
    return codes


@pytest.mark.parametrize("name", LAYERS)
def test_it_equals_solving_for_the_best_remaining_weights_after_every_step(name: str) -> None:
    _, geometry, weight, x = made(name)
    x = x + 0.5
    params = weight_params(weight, QuantSpec("int4", "per-channel"), output_axis=int(geometry.transposed))
    inputs = statistics_of(x, geometry)
    codes = filters_of(compensated_codes(weight, params, inputs, geometry), geometry).double()
    scale = filters_of(params.spread(params.scale, weight.shape).expand(weight.shape), geometry).double()
    patches = torch.cat([Patches(image, geometry).sample(EVERY, 0) for image in single_images(x, geometry)], 2).double()
    filters = filters_of(weight, geometry).double()
    nearest = filters_of(quantize(weight, params), geometry).double()
    moments = torch.from_numpy(inputs.moments[0]).double()
    torch.testing.assert_close(moments, patches @ patches.transpose(1, 2) / patches.shape[2], atol=1e-5, rtol=1e-5)
    for group in range(geometry.groups):
        steps = scale[group, :, 0].numpy()
        expected = torch.from_numpy(solved_step_by_step(filters[group].numpy(), steps, moments[group].numpy()))
        was, now = (
            ((candidate * scale[group] - filters[group]) @ patches[group]).square().sum(1)
            for candidate in (nearest[group], expected)
        )
        better = torch.where((now < was)[:, None], expected, nearest[group])
        assert torch.equal(codes[group], better)


def test_it_is_near_the_best_of_all_roundings_and_never_worse_than_nearest() -> None:
    torch.manual_seed(1)
    x = torch.randn(200, 2) @ torch.randn(2, 5) + 0.2 * torch.randn(200, 5)
    weight, geometry = torch.randn(6, 5), Geometry()
    params = weight_params(weight, QuantSpec("int3", "per-channel"))

    def error(codes: Tensor) -> Tensor:
        return ((dequantize(codes, params) - weight) @ x.T).square().sum(1)

    errors = error(compensated_codes(weight, params, statistics_of(x, geometry), geometry))
    nearest = quantize(weight, params)
    near = [(nearest + torch.tensor(moves)).clamp(-3, 3) for moves in itertools.product((-1, 0, 1), repeat=5)]
    best = torch.stack([error(codes.to(torch.int8)) for codes in near]).amin(0)
    assert (errors <= error(nearest)).all()
    assert errors.sum() < 0.5 * error(nearest).sum()
    assert errors.sum() < 2.0 * best.sum()


def test_pruned_weights_stay_at_zero() -> None:
    _, geometry, weight, x = made("strided")
    pruned = prune_weight(weight, Pruning(level=0.5))
    params = weight_params(pruned, QuantSpec("int4", "per-channel"))
    inputs = statistics_of(x + 1.0, geometry)
    assert not compensated_codes(pruned, params, inputs, geometry, keep_zeros=True)[pruned == 0].any()
    assert compensated_codes(pruned, params, inputs, geometry)[pruned == 0].any()


def test_an_affine_weight_keeps_to_its_codes() -> None:
    _, geometry, weight, x = made("linear")
    params = weight_params(weight + 0.3, QuantSpec("int4", "per-channel", symmetric=False))
    codes = compensated_codes(weight + 0.3, params, statistics_of(x, geometry), geometry)
    assert codes.min() >= -8
    assert codes.max() <= 7
    change = (dequantize(codes, params) - weight - 0.3).abs() / params.scale[:, None]
    assert change.max() < 4
    assert change.max() > 0.5  # or nothing was compensated


def test_long_filters_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, geometry, weight, x = made("strided")
    monkeypatch.setattr(sensitivity.quantize.cures.sums, "LARGEST_BLOCK", 10)
    inputs = statistics_of(x, geometry)
    assert [block.shape for block in inputs.moments] == [(1, 9, 9)] * 3
    params = weight_params(weight, QuantSpec("int4", "per-channel"))
    codes = compensated_codes(weight, params, inputs, geometry).flatten(1)
    first = InputStatistics(inputs.mean[:, 9:18], None, inputs.moments[1:2], None)
    alone = compensated_codes(weight.flatten(1)[:, 9:18], params, first, Geometry())
    assert torch.equal(codes[:, 9:18], alone)
