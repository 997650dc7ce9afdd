"""Groups of few channels behind a zero point, which OpenVINO by itself corrects wrongly on CPUs with AMX."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines.openvino_workarounds.groups import with_wide_groups
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.quantize.recipes import INT8_AFFINE

SAFE_AFFINE = sv.recipe_for("openvino") if sv.recipe_for("openvino").name != "int8" else INT8_AFFINE
SCHEME = sv.Scheme.all(SAFE_AFFINE)


def wrapped_net(middle: nn.Conv2d, activation: type[nn.Module] = nn.SiLU) -> tuple[sv.Wrapped, Tensor]:
    first, last = nn.Conv2d(3, middle.in_channels, 1), nn.Conv2d(middle.out_channels, 4, 1)
    net = nn.Sequential(first, activation(), middle, activation(), last).eval()
    image = torch.randn(1, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    wrapped = sv.wrap(net, image)
    wrapped.calibrate(image, SAFE_AFFINE)
    return wrapped, image


LAYERS: dict[str, tuple[nn.Conv2d, int]] = {
    "24 channels": (nn.Conv2d(96, 96, 3, padding=1, groups=4), 2),
    "three groups": (nn.Conv2d(72, 72, 3, padding=1, groups=3), 1),
    "16 channels, 5x5": (nn.Conv2d(64, 96, 5, padding=2, groups=4), 2),
    "12 channels, 5x5": (nn.Conv2d(48, 96, 5, padding=2, groups=4), 1),
    "stride": (nn.Conv2d(96, 192, 3, padding=1, stride=2, groups=4), 2),
    "dilation": (nn.Conv2d(96, 96, 3, padding=2, dilation=2, groups=4), 2),
}

OTHERS: dict[str, nn.Conv2d] = {
    "no padding": nn.Conv2d(96, 96, 3, groups=4),
    "no groups": nn.Conv2d(24, 24, 3, padding=1),
    "enough channels": nn.Conv2d(128, 128, 3, padding=1, groups=4),
    "few channels written": nn.Conv2d(96, 64, 3, padding=1, groups=4),
    "depthwise": nn.Conv2d(32, 32, 3, padding=1, groups=32),
}


def graph_of(wrapped: sv.Wrapped) -> onnx.ModelProto:
    graphs: list[bytes] = []
    wrapped.deploy(SCHEME, lambda graph: graphs.append(graph) or OrtEngine(graph))  # type: ignore[func-returns-value]
    return onnx.load_from_string(graphs[0])


def groups_of(graph: onnx.ModelProto) -> int:
    convolution = [node for node in graph.graph.node if node.op_type == "Conv"][1]
    return next(attribute.i for attribute in convolution.attribute if attribute.name == "group")


@pytest.mark.parametrize("layer", [layer for layer, _ in LAYERS.values()], ids=LAYERS)
def test_the_engine_computes_what_was_simulated(layer: nn.Conv2d) -> None:
    wrapped, image = wrapped_net(layer)
    deployed = wrapped.deploy(SCHEME, "openvino", threads=1)
    with deployed.plan.simulated() as model, torch.no_grad():
        assert sqnr_db(model(image), deployed(image)) > 40.0


@pytest.mark.parametrize(("layer", "groups"), LAYERS.values(), ids=LAYERS)
def test_larger_groups_change_no_bit(layer: nn.Conv2d, groups: int) -> None:
    wrapped, image = wrapped_net(layer)
    graph = graph_of(wrapped)
    before = OrtEngine(graph.SerializeToString()).run(image.numpy())
    assert with_wide_groups(graph) == 1
    assert groups_of(graph) == groups
    onnx.checker.check_model(graph, full_check=True)
    after = OrtEngine(graph.SerializeToString()).run(image.numpy())
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)
    assert with_wide_groups(graph) == 0


@pytest.mark.parametrize("layer", OTHERS.values(), ids=OTHERS)
def test_other_convolutions_stay(layer: nn.Conv2d) -> None:
    assert with_wide_groups(graph_of(wrapped_net(layer)[0])) == 0


def test_codes_whose_zero_point_is_0_need_no_correction() -> None:
    assert with_wide_groups(graph_of(wrapped_net(LAYERS["24 channels"][0], nn.ReLU)[0])) == 0
