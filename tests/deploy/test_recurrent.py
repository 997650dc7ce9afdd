"""Recurrent layers on an engine: their products are quantized, exported step by step and verified."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from tests.deploy.nets import SAFE, SAFE_INT8


class Sequence(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 4)
        self.recurrent = kind(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.recurrent(self.enter(x))[0])


class Cells(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cell, self.leave = kind(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.leave(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(Sequence, nn.LSTM), (Sequence, nn.GRU), (Cells, nn.LSTMCell), (Cells, nn.GRUCell)],
    ids=["LSTM", "GRU", "LSTMCell", "GRUCell"],
)
def test_every_product_of_a_recurrent_layer_runs_in_int8_as_it_is_simulated(make: Any, kind: Any) -> None:
    torch.manual_seed(0)
    wrapped = sv.wrap(make(kind).eval(), torch.randn(2, 3, 6))
    wrapped.calibrate([torch.randn(16, 3, 6)], SAFE_INT8)
    deployed = wrapped.deploy(SAFE)
    assert deployed.plan.left_out == {}
    record = wrapped.verify(deployed)
    assert {check.layer: (check.executed, check.status, check.reason) for check in record.layers} == {
        layer.name: ("int8", "verified", "") for layer in wrapped.layers
    }
    assert record.outputs_pass


class TwoCells(nn.Module):
    """Two cells that read one state in a step: the second layer in the order of the model is the first in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper, self.leave = nn.LSTMCell(6, 8), nn.GRUCell(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 8)
        cell, upper = state, state
        for step in range(x.shape[1]):
            state, cell = self.lower(x[:, step], (state, cell))
            upper = self.upper(state, upper)
        return self.leave(upper)


def test_layers_that_share_a_quantizer_may_run_in_another_order_than_they_were_found() -> None:
    torch.manual_seed(0)
    wrapped = sv.wrap(TwoCells().eval(), torch.randn(2, 3, 6))
    wrapped.calibrate([torch.randn(16, 3, 6)], SAFE_INT8)
    deployed = wrapped.deploy(SAFE)
    assert deployed.plan.left_out == {}
    assert wrapped.verify(deployed).outputs_pass


@pytest.mark.parametrize(("make", "kind"), [(Sequence, nn.LSTM), (Sequence, nn.GRU)], ids=["LSTM", "GRU"])
def test_a_first_state_of_zeros_for_each_sample_is_no_call_of_the_layer(make: Any, kind: Any) -> None:
    torch.manual_seed(0)
    wrapped = sv.wrap(make(kind).eval(), torch.randn(2, 3, 6))
    wrapped.calibrate([torch.randn(16, 3, 6)], SAFE_INT8)
    deployed = wrapped.deploy(SAFE, dynamic="batch")
    assert deployed.plan.left_out == {}
    several = torch.randn(5, 3, 6)
    with deployed.plan.simulated() as model:
        torch.testing.assert_close(deployed(several), model(several), rtol=0, atol=1e-5)
