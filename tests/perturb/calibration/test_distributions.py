"""What layers read and their weights, counted in float and quantized, against numpy and torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.perturb.calibration.distributions import CountedRecipes, input_distributions, weight_distribution
from sensitivity.perturb.perturber import Perturber
from sensitivity.records.results.distribution import Distribution

MINMAX = sv.Recipe("minmax", weights=sv.QuantSpec("int8", "per-channel"), activations=sv.QuantSpec("int8"))
AFFINE = sv.Recipe("affine", activations=sv.QuantSpec("uint8", symmetric=False))


class Net(nn.Module):
    """Two layers; the second reads only numbers above zero, and its first channel is 40 times the others."""

    def __init__(self, fail: BaseException | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.fail = fail

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.sigmoid(self.first(x))
        if self.fail is not None:
            raise self.fail
        out: Tensor = self.second(torch.cat([inner[:, :1] * 40.0, inner[:, 1:]], 1))
        return out


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def distributions_of(
    model: nn.Module, batches: list[Tensor], recipe: sv.Recipe, cure: sv.Recipe | None = None
) -> list[Distribution | None]:
    wrapped = sv.wrap(model.eval(), images(1))
    wrapped.calibrate(images(), [recipe, *([] if cure is None else [cure])])
    perturber = Perturber(model, wrapped.calibrations)
    runs: list[Callable[[], Any]] = [lambda batch=batch: model(batch) for batch in batches]
    return list(
        input_distributions(perturber, {layer: CountedRecipes(recipe, cure) for layer in wrapped.layers}, runs).values()
    )


def edges(distribution: Distribution) -> NDArray[np.float64]:
    return distribution.first + distribution.width * np.arange(len(distribution.before) + 1)


def inputs_of_second(model: Net) -> Tensor:
    with torch.no_grad():
        inner = torch.sigmoid(model.first(images()))
        return torch.cat([inner[:, :1] * 40.0, inner[:, 1:]], 1)


def test_inputs_are_counted_as_numpy_counts_them_and_as_torch_quantizes_them() -> None:
    model = Net().eval()
    counted = distributions_of(model, [images()], MINMAX)[1]
    assert counted is not None
    values = inputs_of_second(model)
    scale = float(values.max()) / 127
    quantized = torch.fake_quantize_per_tensor_affine(values, scale, 0, -128, 127)
    assert list(counted.before) == np.histogram(values.numpy(), edges(counted))[0].tolist()
    assert list(counted.after) == np.histogram(quantized.numpy(), edges(counted))[0].tolist()
    assert sum(counted.after) == values.numel()
    assert counted.before != counted.after
    assert counted.covered == pytest.approx((-128 * scale, 127 * scale))
    assert (counted.low, counted.high) == (float(values.min()), float(values.max()))


def test_most_values_and_the_largest_channel_are_those_of_numpy() -> None:
    model = Net().eval()
    counted = distributions_of(model, [images()], MINMAX)[1]
    assert counted is not None
    values = inputs_of_second(model).numpy()
    assert counted.most_within == pytest.approx(np.quantile(np.abs(values), 0.999), abs=2.0**-4)
    largest = np.abs(values).max((0, 2, 3))
    assert counted.channel == 0 == largest.argmax()
    assert counted.channel_ratio == pytest.approx(largest[0] / np.sort(largest)[2])


def test_batches_of_any_size_give_the_same_counts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1))
    for parameter in model.parameters():
        parameter.data.mul_(16).round_().div_(16)  # sums of such numbers are the same in every order
    sixteenths = images().mul(16).round().div(16)
    together = distributions_of(model, [sixteenths], MINMAX)
    assert together == distributions_of(model, list(sixteenths.split(1)), MINMAX)


def test_the_range_of_the_cure_is_told_beside_that_of_the_recipe() -> None:
    counted = distributions_of(Net().eval(), [images()], MINMAX, AFFINE)[1]
    assert counted is not None
    assert counted.cured is not None
    assert counted.covered is not None
    assert counted.cured[0] == 0.0  # no input is below zero
    assert counted.cured[1] == pytest.approx(counted.covered[1])


def test_channels_with_ranges_of_their_own_are_covered_from_the_lowest_to_the_highest() -> None:
    model = Net().eval()
    spec = sv.QuantSpec("int8", "per-channel")
    counted = distributions_of(model, [images()], sv.Recipe("channels", activations=spec))[1]
    assert counted is not None
    largest = inputs_of_second(model).amax((0, 2, 3))
    scales = largest / 127
    zeros = torch.zeros(6, dtype=torch.int32)
    quantized = torch.fake_quantize_per_channel_affine(inputs_of_second(model), scales, zeros, 1, -128, 127)
    assert counted.covered == pytest.approx((-128 / 127 * float(largest.max()), float(largest.max())))
    assert list(counted.after) == np.histogram(quantized.numpy(), edges(counted))[0].tolist()


def test_inputs_that_a_recipe_leaves_alone_are_counted_once() -> None:
    model = Net().eval()
    wrapped = sv.wrap(model, images(1))
    layers = {layer: CountedRecipes(sv.INT8_WEIGHTS) for layer in wrapped.layers}
    counted = input_distributions(Perturber(model), layers, [lambda: model(images())])
    assert [(each.after, each.covered) for each in counted.values() if each is not None] == [((), None)] * 2


def test_inputs_that_are_not_finite_have_no_distribution() -> None:
    model = Net().eval()
    wrapped = sv.wrap(model, images(1))
    layers = {layer: CountedRecipes(sv.INT8_WEIGHTS) for layer in wrapped.layers}
    endless = images()
    endless[0, 0, 0, 0] = torch.inf
    counted = input_distributions(Perturber(model), layers, [lambda: model(endless)])
    assert [each is None for each in counted.values()] == [True, False]


def test_a_weight_is_counted_as_torch_quantizes_it() -> None:
    model = Net().eval()
    wrapped = sv.wrap(model, images(1))
    counted = weight_distribution(Perturber(model), wrapped.layers[0], CountedRecipes(sv.INT8_WEIGHTS))
    assert counted is not None
    weight = model.first.weight.detach()
    scales = weight.abs().amax((1, 2, 3)) / 127
    zeros = torch.zeros(6, dtype=torch.int32)
    quantized = torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)
    assert list(counted.before) == np.histogram(weight.numpy(), edges(counted))[0].tolist()
    assert list(counted.after) == np.histogram(quantized.numpy(), edges(counted))[0].tolist()
    assert counted.covered == pytest.approx((float(quantized.min()), float(quantized.max())))


@pytest.mark.parametrize("fail", [None, RuntimeError("broken"), KeyboardInterrupt("broken")])
def test_counting_leaves_no_trace(fail: BaseException | None) -> None:
    model = Net().eval()
    wrapped = sv.wrap(model, images(1))
    layers = {layer: CountedRecipes(sv.INT8_WEIGHTS) for layer in wrapped.layers}
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    model.fail = fail
    with nullcontext() if fail is None else pytest.raises(type(fail), match="broken"):
        input_distributions(Perturber(model), layers, [lambda: model(images())])
    for module in model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    for name, value in model.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])
    assert not model.training
