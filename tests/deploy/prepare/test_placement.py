"""What TensorRT should not run in int8 stays in float, with its reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.deploy.prepare.placement import tensorrt_refuses
from sensitivity.records import Layer
from tests.deploy.nets import SAFE, SAFE_INT8


def layer(read: int, write: int, side: int | tuple[int, int] = 3, groups: int = 1, *, first: bool = False) -> Layer:
    """A convolution as ``wrap`` describes it, behind another one unless it is the first."""
    conv = nn.Conv2d(read, write, side, groups=groups)
    if first:
        return sv.wrap(conv, torch.zeros(1, read, 16, 16)).layers[0]
    before = nn.Conv2d(3, read, 1)
    return sv.wrap(nn.Sequential(before, nn.ReLU(), conv), torch.zeros(1, 3, 16, 16)).layers[1]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (layer(16, 16), None),
        (layer(32, 64, 1), None),
        (layer(3, 16, first=True), None),  # the image: one side has 16
        (layer(3, 8, first=True), None),  # the image, and a multiple of 8
        (layer(3, 6, first=True), "too few channels"),
        (layer(8, 8), "too few channels"),  # not the first, and no side has 16
        (layer(8, 16), None),
        (layer(16, 4), None),
        (layer(12, 20), "too few channels"),  # no multiple of 8
        (layer(15, 20), "too few channels"),  # one channel short of 16 on its narrow side
        (layer(8, 15), "too few channels"),  # one channel short of 16 on its wide side
        (layer(8, 16, (1, 3)), "too few channels"),  # kernel not square
        (layer(64, 64, 3, 64), None),  # depthwise 3x3
        (layer(64, 64, 1, 4), None),  # 16 channels in a group
        (layer(48, 48, 1, 6), "kernel of side 1"),  # the grouped attention convolution
        (layer(20, 20, 3, 20), "no multiple of 8"),
    ],
    ids=lambda value: getattr(value, "module", None) and f"{value.in_channels}-{value.out_channels}-g{value.groups}",
)
def test_convolutions_that_int8_does_not_pay_for_are_refused(made: Layer, why: str | None) -> None:
    reason = tensorrt_refuses(made)
    assert (reason is None) == (why is None), reason
    assert why is None or why in (reason or "")


def test_linear_and_transposed_layers_are_not_its_business() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Flatten(), nn.Linear(4 * 81, 3))
    assert [tensorrt_refuses(layer) for layer in sv.wrap(net, torch.zeros(1, 3, 8, 8)).layers] == [None, None]


def test_a_plan_for_tensorrt_leaves_them_out_and_says_why(wrapped: sv.Wrapped) -> None:
    plan, everything = (wrapped.plan(sv.Scheme.all(sv.INT8), target=target) for target in ("tensorrt", "any"))
    refused = {layer.name for layer in wrapped.layers if tensorrt_refuses(layer)}
    assert set(plan.left_out) == refused
    assert all(plan.left_out.values())
    assert set(plan.recipes) == set(wrapped.layers.names) - refused
    assert not everything.left_out
    if wrapped.name == "efficientvit":
        assert wrapped.layers["attention.pointwise"].name not in refused  # 16 channels in a group here


def test_protecting_what_is_left_out_changes_nothing(wrapped: sv.Wrapped) -> None:
    plan = wrapped.plan(sv.Scheme.all(sv.INT8), target="tensorrt")
    for name in plan.left_out:
        assert plan.expected_precision(plan.layers[name]) == "fp32"


class Upsampled(nn.Sequential):
    """Transposed convolutions: a grouped one, one for each channel, a dilated one, a plain one."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        transposed = [{"groups": 2}, {"groups": 8}, {"dilation": 2}, {}]
        super().__init__(nn.Conv2d(3, 8, 1), *(nn.ConvTranspose2d(8, 8, 2, **settings) for settings in transposed))


def upsampled() -> sv.Wrapped:
    wrapped = sv.wrap(Upsampled().eval(), torch.randn(1, 3, 6, 6))
    wrapped.calibrate(torch.randn(2, 3, 6, 6), SAFE_INT8)
    return wrapped


@pytest.mark.parametrize(
    ("engine", "modules", "why"),
    [
        ("openvino", ["1", "2"], "OpenVINO runs grouped transposed convolutions in float"),
        ("onnxruntime-int8", ["1", "2", "3", "4"], "ONNX has no operator for transposed convolutions of integers"),
    ],
)
def test_transposed_convolutions_that_an_engine_runs_in_float_are_planned_so(
    engine: str, modules: list[str], why: str
) -> None:
    wrapped = upsampled()
    plan = wrapped.plan(SAFE, target=engine)
    assert [wrapped.layers[name].module for name in plan.left_out] == modules
    assert all(reason.startswith(why) for reason in plan.left_out.values())
    record = wrapped.verify(wrapped.deploy(SAFE, engine, threads=1))
    assert record.passed
    assert [check.module for check in record.layers if check.executed == "fp32"] == modules
    weights_alone = wrapped.plan(sv.Scheme.all(sv.INT8_WEIGHTS), target=engine)
    assert not weights_alone.left_out


def test_this_openvino_runs_grouped_transposed_convolutions_in_float() -> None:
    """Where this fails, OpenVINO was mended, and ``openvino_refuses`` can go."""
    wrapped = upsampled()
    record = wrapped.verify(wrapped.deploy(SAFE, lambda graph: OpenVinoEngine(graph, threads=1)))
    assert [check.module for check in record.layers if str(check.status) == "other precision"] == ["1", "2"]
