"""One pass over the images for all that recipes need, and layers that cannot be observed left out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sensitivity as sv
from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.calibration import Point

PERCENTILE = sv.Recipe("percentile", activations=sv.QuantSpec(observer="percentile"))
RECIPES = [sv.INT8_MINMAX, sv.THESIS, sv.FP8, PERCENTILE, sv.Recipe("activations", activations=sv.QuantSpec())]


class Net(nn.Module):
    """Two convolutions with their activations, one of them a function where asked for."""

    def __init__(self, *, functional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act = nn.Conv2d(3, 4, 1), nn.ReLU()
        self.b, self.other = nn.Conv2d(4, 2, 1), nn.ReLU()
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.act(self.a(x)))
        return F.relu(x) if self.functional else self.other(x)


def counted(model: nn.Module) -> list[object]:
    """Grows with every pass of a model."""
    passes: list[object] = []
    model.register_forward_hook(lambda *_: passes.append(None))
    return passes


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def wrapped(*, functional: bool = False) -> sv.Wrapped:
    return sv.wrap(Net(functional=functional).eval(), images()[:1])


# --- one pass for several recipes ------------------------------------------------------------------------------------


def test_a_format_without_zero_point_and_an_affine_one_share_a_pass() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    fp8 = sv.Recipe("fp8, mse", sv.QuantSpec("fp8_e4m3"), sv.QuantSpec("fp8_e4m3", observer="mse"))
    both = sv.wrap(net, x).calibrate([x], [sv.INT8_AFFINE, fp8])
    for recipe in (sv.INT8_AFFINE, fp8):
        assert both.for_recipe(recipe).ranges == sv.wrap(net, x).calibrate([x], recipe).ranges


def test_several_recipes_share_one_pass_and_get_what_each_would_alone() -> None:
    together, alone = wrapped(), wrapped()
    passes = counted(together.model)
    calibration = together.calibrate(images(), RECIPES)
    assert len(passes) == 6
    assert [calibration.for_recipe(recipe) for recipe in RECIPES] == [
        alone.calibrate(images(), recipe) for recipe in RECIPES
    ]
    assert together.calibrations == [calibration]
    assert all(calibration.fits(recipe) for recipe in RECIPES)
    assert len(calibration.parts) == 3  # min-max ranges of int8 and fp8 are the same, with or without quantized weights
    other = sv.Recipe("mse", activations=sv.QuantSpec(observer="mse"))
    assert not calibration.fits(other)
    with pytest.raises(CalibrationError, match="no ranges for recipe 'mse': this calibration holds those of QuantSpec"):
        calibration.for_recipe(other)


class Attention(nn.Module):
    """Layers inside attention, and one whose weight a function multiplies: all are met at their operator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.expand, self.read = nn.Parameter(torch.randn(4, 3)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.linear(x.flatten(2).transpose(1, 2), self.expand)
        return F.linear(self.attention(tokens, tokens, tokens)[0], self.read.weight, self.read.bias)


def test_recipes_that_share_a_pass_see_layers_at_their_operator_as_each_would_alone() -> None:
    together, alone = (sv.wrap(Attention().eval(), images()[:1]) for _ in range(2))
    recipes = [sv.INT8_MINMAX, PERCENTILE, sv.INT8_AFFINE]
    calibration = together.calibrate(images(), recipes)
    assert len({point.layer for point in calibration.for_recipe(PERCENTILE).ranges}) == len(together.layers) == 4
    assert [calibration.for_recipe(recipe) for recipe in recipes] == [
        alone.calibrate(images(), recipe) for recipe in recipes
    ]
    study = together.analyze(sv.FeatureFidelity(images()), recipes, progress=False)
    assert all(row.status == "measured" for row in study.measurements)


def test_the_layers_of_a_scheme_may_be_observed_in_different_ways() -> None:
    affine = sv.Recipe("affine", activations=sv.QuantSpec("uint8", symmetric=False, observer="mse"))
    channels = sv.Recipe("channels", activations=sv.QuantSpec(granularity="per-channel"))
    scheme = sv.Scheme.only("a", affine).quantize("b", channels)
    net, first, second = wrapped(), wrapped(), wrapped()
    passes = counted(net.model)
    calibration = net.calibrate(images(), scheme)
    assert len(passes) == 6
    assert [len(part.range_of(Point("b:0:0", "input", 0)).low) for part in calibration.parts] == [1, 4]
    with net.quantized(scheme) as model, torch.no_grad():
        simulated = model(images())
    affine_of_a, channels_of_b = first.calibrate(images(), affine), second.calibrate(images(), channels)
    with wrapped().quantized(scheme, calibration=[affine_of_a, channels_of_b]) as model, torch.no_grad():
        assert torch.equal(model(images()), simulated)
    with wrapped().quantized(scheme, calibration=images()) as model, torch.no_grad():
        assert torch.equal(model(images()), simulated)


def test_a_sweep_of_several_recipes_reads_its_calibration_images_once_and_keeps_none() -> None:
    net = wrapped()
    living: list[weakref.ref[Tensor]] = []
    most = 0

    def stream() -> Iterator[Tensor]:
        nonlocal most
        for image in images():
            fresh = image[None].clone()
            living.append(weakref.ref(fresh))
            yield fresh
            del fresh
            gc.collect()
            most = max(most, sum(reference() is not None for reference in living))

    task = sv.FeatureFidelity(images())
    study = net.analyze(task, [sv.INT8, sv.THESIS], calibration=stream(), progress=False)
    assert len(living) == 6
    assert most <= 2  # the batch that runs, and the next one
    alone = [wrapped().analyze(task, recipe, calibration=images(), progress=False) for recipe in (sv.INT8, sv.THESIS)]
    assert [row.score for row in study.measurements] == [
        row.score for study_alone in alone for row in study_alone.measurements
    ]


def test_calibrations_made_before_can_be_given_as_a_list() -> None:
    made = [wrapped().calibrate(images(), recipe) for recipe in (sv.INT8, sv.THESIS)]
    task = sv.FeatureFidelity(images())
    study = wrapped().analyze(task, [sv.INT8, sv.THESIS], calibration=made, progress=False)
    assert all(row.status == "measured" for row in study.measurements)
    signals = wrapped().signals(images(), sv.THESIS, calibration=made)
    assert not signals.failed


def test_recipes_that_need_no_calibration_leave_a_generator_unread() -> None:
    stream = iter(images())
    wrapped().analyze(sv.FeatureFidelity(images()), sv.INT8_WEIGHTS, calibration=stream, progress=False)
    assert len(list(stream)) == 6


def test_progress_of_the_calibration_inside_a_sweep_is_hidden_and_shown_with_the_sweep(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = sv.FeatureFidelity(images())
    wrapped().analyze(task, sv.INT8, calibration=images(), progress=True)
    assert "calibration" in capsys.readouterr().err
    wrapped().analyze(task, sv.INT8, calibration=images(), progress=False)
    assert capsys.readouterr().err == ""


def test_what_cannot_be_calibrated_is_said() -> None:
    with pytest.raises(RecipeError, match="'int8-weights' quantizes no activations"):
        wrapped().calibrate(images(), [sv.INT8, sv.INT8_WEIGHTS])
    with pytest.raises(RecipeError, match="no recipe of this scheme quantizes activations"):
        wrapped().calibrate(images(), sv.Scheme.all(sv.INT8_WEIGHTS).protect("a"))
    with pytest.raises(RecipeError, match="one or more recipes"):
        wrapped().calibrate(images(), [])
    with pytest.raises(RecipeError, match=r"recipe='int8': give a recipe such as sv\.INT8"):
        wrapped().calibrate(images(), "int8")
    with pytest.raises(CalibrationError, match="none of the model's layers ran"):
        wrapped().calibrate(sv.callback_task(lambda model: 1.0), sv.INT8)


# --- layers that no hook can see -------------------------------------------------------------------------------------


def test_a_layer_with_a_functional_activation_is_left_out_and_the_others_are_calibrated() -> None:
    net = wrapped(functional=True)
    calibration = net.calibrate(images(), sv.THESIS)
    assert {point.layer for point in calibration.ranges} == {"a:0:0"}
    assert calibration.ranges == {
        point: observed
        for point, observed in wrapped().calibrate(images(), sv.THESIS).ranges.items()
        if point.layer == "a:0:0"
    }


@pytest.mark.parametrize("layers", ["*", "a"])
def test_a_sweep_measures_the_others_and_says_why_this_one_failed(layers: str) -> None:
    net = wrapped(functional=True)
    study = net.analyze(sv.FeatureFidelity(images()), sv.THESIS, calibration=images(), layers=layers, progress=False)
    rows = {row.layer: row for row in study.measurements}
    assert rows["a:0:0"].status == "measured"
    if layers == "*":
        assert rows["b:0:0"].status == "failed"
        assert "RecipeError: b:0:0: its activation ReLU is written as a function" in rows["b:0:0"].reason


def test_perturbing_it_alone_says_why() -> None:
    net = wrapped(functional=True)
    net.calibrate(images(), sv.THESIS)
    with (
        pytest.raises(RecipeError, match="activation ReLU is written as a function"),
        net.quantized(sv.Scheme.all(sv.THESIS)),
    ):
        pass
