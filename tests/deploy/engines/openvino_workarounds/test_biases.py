"""Quantized convolutions without a bias that several layers read, whose scale OpenVINO by itself takes twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines import openvino_engine
from sensitivity.deploy.engines.openvino_workarounds.biases import with_lasting_biases
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.errors import DisagreementWarning, ExportError
from tests.deploy.nets import SAFE, SAFE_INT8


class Pyramid(nn.Module):
    """Outputs of convolutions that the next one reads and that somebody else reads, too, as in an FPN."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 8, 3, bias=bias), nn.ConvTranspose2d(8, 8, 2, stride=2, bias=bias)
        self.second, self.last = nn.Conv2d(8, 8, 1, bias=bias), nn.Conv2d(8, 4, 3)
        if bias:
            nn.init.zeros_(self.first.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = self.first(x)
        up = self.up(nn.functional.max_pool2d(first, 2))
        second = self.second(up)
        return first, up, second + up, self.last(second)


class Classifier(Pyramid):
    """The same in front of a chain of linear layers, for which ``SNIPPETS_MODE`` is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        *maps, last = super().forward(x)
        return *maps, self.head(last.mean((2, 3)))


def image() -> Tensor:
    return torch.randn(1, 3, 14, 14, generator=torch.Generator().manual_seed(0))


def wrapped_net(net: nn.Module) -> sv.Wrapped:
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.3)
    wrapped = sv.wrap(net.eval(), image())
    wrapped.calibrate(image(), SAFE_INT8)
    return wrapped


def agreement_db(deployed: Any) -> float:
    """Of engine and simulation, the lowest of all outputs."""
    with deployed.plan.simulated() as model:
        simulated = model(image())
    return min(sqnr_db(wanted, computed) for wanted, computed in zip(simulated, deployed(image()), strict=True))


@pytest.mark.parametrize("bias", [False, True])
def test_a_pyramid_for_any_image_size_computes_what_was_simulated(bias: bool) -> None:
    assert agreement_db(wrapped_net(Pyramid(bias=bias)).deploy(SAFE, "openvino", dynamic="size", threads=1)) > 40.0


def test_a_pyramid_in_front_of_a_chain_of_linear_layers_computes_what_was_simulated() -> None:
    assert agreement_db(wrapped_net(Classifier()).deploy(SAFE, "openvino", threads=1)) > 40.0


def test_this_openvino_scales_twice_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails, OpenVINO was mended, and ``openvino_workarounds.biases`` can go."""
    monkeypatch.setattr(openvino_engine, "with_lasting_biases", lambda *_: 0)
    with pytest.warns(DisagreementWarning, match="openvino computes something else than was simulated"):
        deployed = wrapped_net(Classifier()).deploy(SAFE, "openvino", threads=1)
    assert agreement_db(deployed) < 5.0
    with pytest.raises(ExportError, match="where sizes may change, the model on openvino agrees with the simulation"):
        wrapped_net(Pyramid()).deploy(SAFE, "openvino", dynamic="size", threads=1)


def graph_of(net: nn.Module, scheme: sv.Scheme) -> onnx.ModelProto:
    graphs: list[bytes] = []
    wrapped_net(net).deploy(scheme, lambda graph: graphs.append(graph) or OrtEngine(graph))  # type: ignore[func-returns-value]
    return onnx.load_from_string(graphs[0])


def test_only_quantized_convolutions_with_several_readers_and_no_bias_get_one() -> None:
    graph = graph_of(Pyramid(), SAFE)
    assert with_lasting_biases(graph) == 3
    added = {node.name for node in graph.graph.node if any(name.endswith("/tiny_bias") for name in node.input)}
    assert added == {"first", "up", "second"}
    onnx.checker.check_model(graph, full_check=True)
    assert with_lasting_biases(graph) == 0
    assert with_lasting_biases(graph_of(Pyramid(), sv.Scheme())) == 0


def test_the_bias_is_a_number_in_fp16_too() -> None:
    graph = graph_of(Pyramid(bias=True), SAFE)
    assert with_lasting_biases(graph, "fp16") == 1
    assert np.float16(onnx.numpy_helper.to_array(graph.graph.initializer[-1])).all()
