"""Quantized linear layers behind each other, which OpenVINO by itself fuses and computes wrongly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines import openvino_engine
from sensitivity.deploy.prepare.measures import sqnr_db
from tests.deploy.nets import SAFE, SAFE_INT8
from tests.deploy.this_cpu import saturates

BIASES = [(True, True, True), (False, False, False), (False, True, True), (True, False, True), (True, False)]


class Perceptron(nn.Module):
    """Linear layers with a ReLU between, some of them without a bias."""

    def __init__(self, biases: Sequence[bool]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linears = nn.ModuleList(nn.Linear(16, 16, bias=bias) for bias in biases)

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.linears[:-1]:
            x = torch.relu(linear(x))
        return self.linears[-1](x)


def inputs() -> Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


def wrapped_chain(biases: Sequence[bool]) -> sv.Wrapped:
    wrapped = sv.wrap(Perceptron(biases).eval(), inputs()[:1])
    wrapped.calibrate([inputs()], [SAFE_INT8, sv.INT8_MINMAX])
    return wrapped


def agreement_db(wrapped: sv.Wrapped, scheme: sv.Scheme) -> float:
    """Of engine and simulation."""
    deployed = wrapped.deploy(scheme, "openvino", threads=1)
    with deployed.plan.simulated() as model:
        return sqnr_db(model(inputs()), deployed(inputs()))


@pytest.mark.parametrize("biases", BIASES[1:], ids=str)
def test_a_chain_of_linear_layers_runs_in_int8_and_is_verified(biases: Sequence[bool]) -> None:
    wrapped = wrapped_chain(biases)
    record = wrapped.verify(wrapped.deploy(SAFE, "openvino", threads=1))
    assert {str(check.status) for check in record.layers} == {"verified"}
    assert record.passed


@pytest.mark.parametrize("biases", BIASES, ids=str)
def test_a_chain_with_a_protected_layer_computes_what_was_simulated(biases: Sequence[bool]) -> None:
    wrapped = wrapped_chain(biases)
    everything = SAFE
    for name in wrapped.layers.names:
        assert agreement_db(wrapped, everything.protect(name)) > 60.0


@pytest.mark.filterwarnings("ignore::sensitivity.errors.DisagreementWarning")  # told where it is wrong: with VNNI
def test_this_openvino_computes_a_chain_wrongly_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails, OpenVINO was mended, and ``openvino_workarounds.chains`` can go."""
    monkeypatch.setattr(openvino_engine, "holds_quantized_chain", lambda _: False)
    agreed_db = agreement_db(wrapped_chain((False, True, True)), SAFE)
    assert agreed_db > 60.0 if saturates() else agreed_db < 0.0  # without VNNI it computes the chain right


def test_graphs_without_such_a_chain_are_left_to_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = wrapped_chain((True, False))
    judged = []
    judge = openvino_engine.holds_quantized_chain
    monkeypatch.setattr(
        openvino_engine, "holds_quantized_chain", lambda graph: judged.append(judge(graph)) or judged[-1]
    )
    wrapped.deploy(sv.Scheme(), "openvino", threads=1)
    wrapped.deploy(sv.Scheme.all(sv.INT8_WEIGHTS), "openvino", threads=1)
    assert not any(judged)
    wrapped.deploy(SAFE.protect(wrapped.layers.names[0]), "openvino", threads=1)
    assert judged[-1]
