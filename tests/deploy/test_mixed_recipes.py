"""A scheme whose layers have different ranges, formats and zero points: simulated, exported, run, verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

import sensitivity as sv
from tests.deploy.nets import Resnet, build, images

WEIGHTS = sv.QuantSpec("int7", "per-channel", observer="mse")
AFFINE = sv.Recipe("affine", WEIGHTS, sv.QuantSpec("uint8", symmetric=False, observer="mse"))
CLIPPED = sv.Recipe("clipped", WEIGHTS, sv.QuantSpec("int8", observer="percentile", percentile=99.9))
MINMAX = sv.Recipe("minmax", sv.QuantSpec("int7", "per-channel"), sv.QuantSpec("int8"))
SCHEME = sv.Scheme.all(AFFINE).quantize("blocks:0:*", CLIPPED).quantize("@output", MINMAX).protect("blocks:4:2")


@pytest.fixture(scope="module")
def wrapped() -> sv.Wrapped:
    made = sv.wrap(build(Resnet), images(1), name="resnet18")
    made.calibrate([images(8, seed=1)], SCHEME)
    return made


@pytest.fixture(scope="module")
def task() -> sv.FeatureFidelity:
    return sv.FeatureFidelity(images(4, seed=5))


def test_it_is_verified_on_openvino(wrapped: sv.Wrapped, task: sv.FeatureFidelity) -> None:
    engine = wrapped.deploy(SCHEME, "openvino")
    verification = wrapped.verify(engine, task)
    assert verification.passed, str(verification)
    names = {recipe.name for recipe in engine.plan.recipes.values()}
    assert names == {"affine", "clipped", "minmax"}


class Padded(nn.Module):
    """Every kind of padding, around inputs that are far from symmetric: a zero point wrong by one would show."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.dilated = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.transposed = nn.ConvTranspose2d(16, 8, 3, 2, 1, 1)
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.plain(x + 1.5))
        x = self.dilated(F.gelu(self.depthwise(x) - 1.0)) + 2.0
        return self.reflected(self.same(F.silu(self.transposed(x)) - 0.5))


def test_padding_of_affine_activations_is_exact_zero_in_simulation_and_engine(task: sv.FeatureFidelity) -> None:
    net = sv.wrap(build(Padded), images(1))
    net.calibrate([images(8, seed=1)], AFFINE)
    deployed = net.deploy(sv.Scheme.all(AFFINE), "openvino")
    checks = net.verify(deployed, task).layers
    assert len(checks) == 6
    for check in checks:
        assert (check.status, check.executed) == ("verified", "int8"), check
    zero_points = [int(deployed.plan.input_params(layer).zero_point) for layer in deployed.plan.quantized]
    assert sum(abs(zero_point - 128) > 20 for zero_point in zero_points) >= 4, (
        "nearly symmetric ranges would test little"
    )


def test_every_layer_has_the_zero_point_of_its_own_recipe(wrapped: sv.Wrapped) -> None:
    deployed = wrapped.deploy(SCHEME, "onnxruntime")
    values = {
        initializer.name: numpy_helper.to_array(initializer)
        for initializer in deployed.parts[0].qdq.graph.graph.initializer
    }
    types = {
        layer.name: values[f"{layer.module}.input.zero_point"].dtype
        for layer in deployed.plan.quantized
        if f"{layer.module}.input.zero_point" in values
    }
    for name, recipe in deployed.plan.recipes.items():
        if name in types:
            assert types[name] == (np.uint8 if recipe.name == "affine" else np.int8), name
    assert {recipe.name for name, recipe in deployed.plan.recipes.items() if name in types} >= {"affine", "clipped"}


def test_onnx_runtime_computes_what_is_simulated(wrapped: sv.Wrapped) -> None:
    x = images(2, seed=6)
    engine = wrapped.deploy(SCHEME, "onnxruntime")
    with wrapped.plan(SCHEME).simulated() as model, torch.no_grad():
        simulated = model(x)
    in_float = wrapped.model(x).detach()
    assert (engine(x) - simulated).abs().max() < 0.2 * (in_float - simulated).abs().max()


def test_its_saved_calibration_deploys_the_same_graph(wrapped: sv.Wrapped, tmp_path: Path) -> None:
    wrapped.calibrations[-1].save(tmp_path / "ranges.safetensors")
    loaded = sv.Calibration.load(tmp_path / "ranges.safetensors")
    first = wrapped.deploy(SCHEME, "onnxruntime").parts[0].qdq.graph
    again = wrapped.deploy(SCHEME, "onnxruntime", calibration=loaded).parts[0].qdq.graph
    assert isinstance(first, onnx.ModelProto)
    assert first.SerializeToString() == again.SerializeToString()
