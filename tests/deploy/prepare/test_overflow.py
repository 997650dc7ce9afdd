"""A rest in fp16 that overflows: the simulation shows it, export refuses it, and what export proposes cures it."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.prepare.overflow import LARGEST_HALF, calibrated_values, check_overflow, largest_values
from sensitivity.errors import ExportError, PredictionError
from tests.deploy.nets import images

FP16 = sv.Scheme().with_rest("fp16")
INT8 = sv.Scheme.all(sv.INT8_MINMAX)


class HandNorm(nn.Module):
    """A norm over channels written by hand, as in EfficientViT-SAM: its squares leave fp16 above 256."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = HandNorm(), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(x))


class Loud(nn.Module):
    """A classifier of images by their mean colour, with a norm behind a loud convolution.

    Args:
        gain: 3e3 lets the squares in the norm leave fp16, 3e6 what it reads as well.
    """

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.stem, self.block, self.norm, self.head = (
            nn.Conv2d(3, 8, 3, 2, 1),
            Block(8),
            HandNorm(),
            nn.Linear(8, 4, bias=False),
        )
        with torch.no_grad():
            self.stem.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.stem(x))).mean((2, 3)))


@cache
def loud(gain: float) -> sv.Wrapped:
    torch.manual_seed(0)
    return sv.wrap(Loud(gain).eval(), images(1, side=16))


@cache
def task_of(gain: float) -> sv.Classification:
    """Images with the labels that the model gives them in fp32."""
    pictures = images(24, seed=2, side=16)
    with torch.no_grad():
        labels = loud(gain).model(pictures).argmax(1)
    return sv.Classification(pictures, labels, batch_size=8)


def proposed(wrapped: sv.Wrapped, scheme: sv.Scheme = FP16) -> list[str]:
    """What export proposes to keep in fp32."""
    with pytest.raises(ExportError, match=r"This keeps them in fp32: scheme\.with_rest\('fp16', keep_fp32=") as refused:
        wrapped.deploy(scheme, "onnxruntime")
    return re.findall(r"'([^']+)'", str(refused.value).split("keep_fp32=")[1])


def test_fp16_alone_ruins_the_metric_and_what_export_proposes_restores_it() -> None:
    wrapped, task = loud(3e3), task_of(3e3)
    assert wrapped.evaluate(task).value == 1.0
    assert wrapped.evaluate(task, FP16).value < 0.5  # variances are infinite: every image gets the same class
    entries = proposed(wrapped)
    assert entries == ["norms"]
    cured = FP16.with_rest("fp16", keep_fp32=entries)
    assert wrapped.evaluate(task, cured).value == 1.0
    assert wrapped.verify(wrapped.deploy(cured, "onnxruntime"), task, roundings=False).metric_deployed == 1.0


def test_where_activations_overflow_as_well_the_outputs_are_not_numbers_and_their_modules_are_proposed() -> None:
    wrapped, task = loud(3e6), task_of(3e6)
    with pytest.raises(PredictionError, match="NaN or infinite"):
        wrapped.evaluate(task, FP16)
    entries = proposed(wrapped)
    assert {"norms", "stem", "block"} == set(entries)
    cured = FP16.with_rest("fp16", keep_fp32=entries)
    assert wrapped.evaluate(task, cured).value == 1.0  # between two modules in fp32 nothing is rounded
    deployed = wrapped.deploy(cured, "onnxruntime")
    assert wrapped.verify(deployed, task, roundings=False).metric_deployed == 1.0


def test_the_message_names_modules_with_their_layers_and_largest_values() -> None:
    with pytest.raises(ExportError, match=r"the largest number of fp16 is 65504.* stem \(\S+\): [0-9.]+e\+06"):
        loud(3e6).deploy(FP16, "onnxruntime")


def test_largest_values_are_those_of_a_pass_in_fp32() -> None:
    wrapped = loud(3e3)
    plan = wrapped.plan(FP16)
    with torch.no_grad():
        stem = plan.model.get_submodule("stem")(*plan.basis.args)
    largest = largest_values(plan)
    assert largest["stem"] == float(stem.abs().max())
    centred = plan.model.get_submodule("block")(stem)
    centred = centred - centred.mean(1, keepdim=True)
    assert largest["norm"] == float(centred.pow(2).max())
    in_range = largest_values(wrapped.plan(FP16.with_rest("fp16", keep_fp32="norms")))
    assert max(in_range.values()) < LARGEST_HALF
    assert "norm" not in in_range


def test_infinities_of_the_models_own_are_no_overflow() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).masked_fill(x > 0.5, float("-inf")).softmax(-1)

    wrapped = sv.wrap(Masked().eval(), torch.linspace(-1, 1, 4)[None])
    check_overflow(wrapped.plan(FP16))


def test_what_the_models_own_forward_computes_cannot_be_kept_by_name() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return (self.fc(x) * 1e6) * 1e-6

    wrapped = sv.wrap(Scaled().eval(), torch.ones(1, 4))
    with pytest.raises(ExportError, match=r"the forward of the model itself: .*cannot be kept in fp32 by name"):
        check_overflow(wrapped.plan(FP16))


def pixelwise() -> sv.Wrapped:
    """Two convolutions with a ReLU between; the example is a dark image."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    return sv.wrap(model, images(1, side=8))


CLIPPING = sv.Recipe(
    "clipping", weights=sv.INT8.weights, activations=sv.QuantSpec("int8", observer="percentile", percentile=90.0)
)


@pytest.mark.parametrize("recipe", [sv.INT8_MINMAX, CLIPPING], ids=lambda recipe: recipe.name)
def test_what_overflows_on_one_calibration_image_alone_is_refused_though_the_observer_clips_it(
    recipe: sv.Recipe,
) -> None:
    wrapped, (first, second, third) = pixelwise(), images(3, side=8).split(1)
    second = second.clone()
    second[..., 0, 0] = 1e6  # one pixel of one image: a percentile does not know it
    wrapped.calibrate([first, second, third], recipe)
    scheme = sv.Scheme.all(recipe).with_rest("fp16")
    with pytest.raises(
        ExportError, match=r"on the calibration images more is held by 0 \(\S+\): [0-9.]+e\+0[56]"
    ) as refused:
        wrapped.deploy(scheme, "onnxruntime")
    entries = re.findall(r"'([^']+)'", str(refused.value).split("keep_fp32=")[1])
    check_overflow(wrapped.plan(scheme.with_rest("fp16", keep_fp32=entries)))
    quiet = pixelwise()
    quiet.calibrate([first, third], recipe)
    check_overflow(quiet.plan(scheme))


def test_a_scheme_that_quantizes_nothing_is_checked_on_the_images_it_is_given() -> None:
    bright = [images(1, side=8), 1e6 * images(1, side=8)]
    wrapped = pixelwise()
    wrapped.deploy(FP16, "onnxruntime")
    with pytest.raises(ExportError, match="on the calibration images more is held by"):
        wrapped.deploy(FP16, "onnxruntime", calibration=bright)
    with pytest.raises(ExportError, match="on the calibration images more is held by"):
        wrapped.deploy(FP16, "onnxruntime")  # the last calibration
    wrapped.calibrate([images(2, side=8)], sv.INT8_MINMAX)
    wrapped.deploy(FP16, "onnxruntime")


def test_a_folded_norm_hides_what_its_convolution_would_have_written() -> None:
    wrapped = pixelwise()
    with torch.no_grad():
        wrapped.model[0].weight.mul_(1e6)
        wrapped.model[1].running_var.fill_(1e12)
    wrapped.calibrate([images(2, side=8)], sv.INT8_MINMAX)
    plan = wrapped.plan(FP16)
    with torch.no_grad():
        assert wrapped.model[0](images(2, side=8)).abs().max() > LARGEST_HALF > max(calibrated_values(plan).values())
    check_overflow(plan)


def test_ranges_count_where_a_calibration_of_an_older_version_holds_no_peaks() -> None:
    wrapped = pixelwise()
    calibration = wrapped.calibrate([1e6 * images(2, side=8)], INT8.recipes[0])
    plan = wrapped.plan(INT8.with_rest("fp16"), calibration=replace(calibration, peaks={}))
    with pytest.raises(ExportError, match=r"on the calibration images more is held by .*3 \(\S+\): [0-9.]+e\+0[56]"):
        check_overflow(plan)


def test_the_simulation_and_engines_in_fp32_are_not_refused() -> None:
    wrapped = loud(3e3)
    wrapped.deploy(FP16, "torch")
    wrapped.deploy(sv.Scheme(), "onnxruntime")


def test_an_example_far_below_the_calibration_images_is_warned_of_since_it_hides_what_overflows() -> None:
    torch.manual_seed(0)
    net, bright = Loud(10).eval(), 255 * images(4, side=16)
    wrapped = sv.wrap(net, images(1, side=16))
    wrapped.calibrate([bright], sv.INT8_MINMAX)
    half = sv.Scheme.only(wrapped.layers[0].name, sv.INT8_MINMAX).with_rest("fp16")
    with pytest.warns(
        UserWarning,
        match=r"on the example inputs alone, where stem\S* reads at most .* reach .* example=image",
    ):
        wrapped.deploy(half, "onnxruntime")
    with pytest.raises(ExportError, match=r"the largest number of fp16 is 65504.* block\.norm"):
        wrapped.deploy(half, "onnxruntime", example=bright[:1])
