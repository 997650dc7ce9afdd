"""Cured layers are exported as they are simulated, and an engine's codes are the simulated ones."""

from __future__ import annotations

import onnx.numpy_helper
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from tests.deploy.nets import SAFE_INT8, SharedHead, build, conv, images

CURED = SAFE_INT8.cured(bias_correction=True, rounding="compensated")


class Tokens(nn.Module):
    """Linear layers with and without a bias, one with another constant added behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bare, self.biased, self.last = nn.Linear(16, 32, bias=False), nn.Linear(32, 32), nn.Linear(32, 8)
        self.position = nn.Parameter(torch.randn(5, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.biased(torch.relu(self.bare(x) + self.position))).mean(1))


def wrapped_and_calibrated(net: nn.Module, x: Tensor) -> sv.Wrapped:
    wrapped = sv.wrap(net.eval(), x[:1])
    wrapped.calibrate(x, CURED)
    return wrapped


def convolutions() -> nn.Module:
    """A dense convolution with a norm, a depthwise one, one without a bias."""
    blocks = conv(3, 16, act=nn.ReLU()), conv(16, 16, groups=16, act=nn.Hardswish()), nn.Conv2d(16, 16, 1, bias=False)
    return nn.Sequential(*blocks, nn.ReLU(), nn.Conv2d(16, 8, 1))


CASES = {
    "convolutions": (lambda: build(convolutions), images(4, seed=1, side=16), "openvino"),
    "tokens": (Tokens, torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1)), "openvino"),
    "shared head": (lambda: build(SharedHead), images(4, seed=1), "onnxruntime"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_code_of_every_cured_layer_is_the_simulated_one(name: str) -> None:
    make, x, engine = CASES[name]
    wrapped = wrapped_and_calibrated(make(), x)
    deployed = wrapped.deploy(sv.Scheme.all(CURED), engine)
    assert not deployed.plan.uncured
    verification = wrapped.verify(deployed)
    compared = [check for check in verification.layers if check.codes]
    assert len(compared) >= len(wrapped.layers) - 1
    for check in compared:
        assert check.code_share is not None
        assert check.code_share <= verification.gates.code_share


def test_the_graph_holds_the_corrected_bias_to_the_last_bit_and_no_other_constant_is_touched() -> None:
    torch.manual_seed(1)
    wrapped = wrapped_and_calibrated(Tokens(), torch.randn(4, 5, 16))
    deployed = wrapped.deploy(sv.Scheme.all(CURED), "onnxruntime")
    graph = deployed.parts[0].qdq.graph.graph
    constants = {initializer.name: onnx.numpy_helper.to_array(initializer) for initializer in graph.initializer}
    for layer in deployed.plan.layers:
        bias = deployed.plan.bias(layer)
        assert bias is not None
        assert constants[f"{layer.module}.bias.corrected"].tobytes() == bias.numpy().tobytes()
        own = wrapped.model.get_submodule(layer.module)._parameters["bias"]
        assert own is None or not torch.equal(own, bias)
        assert f"{layer.module}.bias" not in constants
    assert any(array.shape == (5, 32) for array in constants.values())


def test_a_plan_without_bias_correction_has_the_models_own_biases() -> None:
    torch.manual_seed(1)
    wrapped = sv.wrap(Tokens().eval(), torch.randn(1, 5, 16))
    wrapped.calibrate(torch.randn(4, 5, 16), SAFE_INT8)
    plan = wrapped.plan(sv.Scheme.all(SAFE_INT8))
    biases = {layer.module: plan.bias(layer) for layer in plan.layers}
    assert biases["bare"] is None
    assert biases["biased"] is not None
    assert torch.equal(biases["biased"], wrapped.model.biased.bias)
    assert plan.uncured == {}
