"""Cures applied to single layers of a model that is put back afterwards."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import CalibrationError

INT3 = sv.Recipe("int3", weights=sv.QuantSpec("int3", "per-channel"))
CORRECTED = INT3.cured(bias_correction=True)
COMPENSATED = INT3.cured(rounding="compensated")


def net() -> nn.Module:
    torch.manual_seed(0)
    first, norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
    norm.running_mean = torch.randn(8)
    norm.running_var = torch.rand(8) + 0.5
    norm.weight.data.uniform_(0.5, 1.5)
    return nn.Sequential(first, norm, nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def images() -> Tensor:
    coarse = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, size=(9, 9), mode="bilinear", align_corners=True) + 0.5


@pytest.fixture(scope="module")
def wrapped() -> sv.Wrapped:
    made = sv.wrap(net(), images()[:1])
    made.calibrate(images(), [CORRECTED, COMPENSATED])
    return made


def mean_after(model: nn.Module, layer: str) -> Tensor:
    """Mean of each channel of what a layer writes, (C,)."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        model(images())
    handle.remove()
    return seen[0].mean((0, 2, 3))


def test_a_corrected_layer_by_itself_keeps_the_mean_of_every_channel_it_writes(wrapped: sv.Wrapped) -> None:
    for layer in wrapped.layers:
        expected = mean_after(wrapped.model, layer.module)
        with wrapped.quantized(sv.Scheme.only([layer.name], INT3)) as model:
            bare = mean_after(model, layer.module)
        with wrapped.quantized(sv.Scheme.only([layer.name], CORRECTED)) as model:
            cured = mean_after(model, layer.module)
        assert (bare - expected).abs().max() > 1e-3
        torch.testing.assert_close(cured, expected, atol=2e-6, rtol=2e-6)


def test_compensated_rounding_of_a_layer_lessens_its_squared_error_also_where_a_norm_is_folded(
    wrapped: sv.Wrapped,
) -> None:
    with torch.no_grad():
        expected = wrapped.model(images())
        for layer in wrapped.layers:
            errors = []
            for recipe in (INT3, COMPENSATED):
                with wrapped.quantized(sv.Scheme.only([layer.name], recipe)) as model:
                    errors.append(float((model(images()) - expected).square().sum()))
            assert errors[1] < 0.8 * errors[0], layer.name


def test_the_model_is_put_back_with_no_bias_where_it_had_none(wrapped: sv.Wrapped) -> None:
    before = {name: (id(parameter), parameter.clone()) for name, parameter in wrapped.model.named_parameters()}
    with wrapped.quantized(sv.Scheme.all(CORRECTED)) as model:
        assert model[0].bias is not None  # type: ignore[index]
    after = dict(wrapped.model.named_parameters())
    assert wrapped.model[0].bias is None  # type: ignore[index]
    assert {name: id(parameter) for name, parameter in after.items()} == {
        name: known for name, (known, _) in before.items()
    }
    assert all(torch.equal(after[name], value) for name, (_, value) in before.items())


def test_without_statistics_of_inputs_the_cure_is_refused() -> None:
    wrapped = sv.wrap(net(), images()[:1])
    with pytest.raises(CalibrationError, match=r"recipe 'int3\+compensated' has cures that look at inputs, and no"):
        wrapped.plan(sv.Scheme.all(COMPENSATED))
    wrapped.calibrate(images(), CORRECTED)
    with pytest.raises(CalibrationError, match="only a calibration for another recipe is at hand"):
        wrapped.plan(sv.Scheme.all(COMPENSATED))


def test_weights_alone_are_corrected_without_the_error_of_activations_that_stay_in_float() -> None:
    recipe = sv.INT8.cured(bias_correction=True)
    both, alone = (sv.wrap(net(), images()[:1]) for _ in range(2))
    both.calibrate(images(), recipe)
    alone.calibrate(images(), CORRECTED)
    biases = [cured.plan(sv.Scheme.all(CORRECTED)).bias(cured.layers[0]) for cured in (both, alone)]
    assert biases[0] is not None
    assert biases[1] is not None
    assert torch.equal(biases[0], biases[1])


class Awkward(nn.Module):
    """A layer of a class of its own, one that no image reaches, attention, and a linear layer."""

    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own, self.last = Awkward.Own(8, 8), nn.Linear(8, 2)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.own(x)
        return self.last(self.attend(y, y, y, need_weights=False)[0])


def test_layers_that_cannot_be_cured_are_quantized_without_and_the_plan_says_why() -> None:
    wrapped = sv.wrap(Awkward().eval(), torch.randn(1, 5, 8))
    recipe = sv.INT8.cured(bias_correction=True, rounding="compensated")
    wrapped.calibrate(torch.randn(6, 5, 8), recipe)
    plan = wrapped.plan(sv.Scheme.all(recipe))
    modules = {wrapped.layers[name].module: reason for name, reason in plan.uncured.items()}
    assert "Own computes in a way of its own" in modules["own"]
    assert "not simply what a convolution or linear module" in modules["attend"]
    assert "last" not in modules
    with wrapped.quantized(sv.Scheme.all(recipe)) as model, torch.no_grad():
        assert torch.isfinite(model(torch.randn(1, 5, 8))).all()


def test_cures_are_swept_like_every_other_recipe(wrapped: sv.Wrapped) -> None:
    task = sv.FeatureFidelity(list(images()))
    study = wrapped.analyze(task, [INT3, COMPENSATED, CORRECTED])
    measured = {(row.layer, row.recipe): row.score for row in study.measurements}
    for layer, recipe in itertools.product(wrapped.layers, (INT3, COMPENSATED, CORRECTED)):
        alone = wrapped.evaluate(task, sv.Scheme.only([layer.name], recipe)).value
        assert measured[layer.name, recipe.name] == alone
    assert sum(measured[layer.name, "int3+compensated"] > measured[layer.name, "int3"] for layer in wrapped.layers) == 3
