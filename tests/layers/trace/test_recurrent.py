"""Recurrent layers step by step: the same numbers as torch's own, in products that are found as layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.layers.trace.recurrent import step_by_step

SETTINGS: list[dict[str, Any]] = [
    {},
    {"bidirectional": True, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "bias": False},
]


def module_of(kind: str, **settings: Any) -> nn.RNNBase:
    torch.manual_seed(0)
    kinds: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    return kinds[kind](5, 4, **settings).eval()


def both(module: nn.RNNBase, *args: Any) -> tuple[list[Tensor], list[Tensor]]:
    with torch.no_grad():
        native = list(tensors_in(module(*args)))
        with step_by_step(nn.Sequential(module)):
            return native, list(tensors_in(module(*args)))


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "both ways", "deep"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_step_by_step_is_what_torch_computes(kind: str, settings: dict[str, Any]) -> None:
    native, stepwise = both(module_of(kind, **settings), torch.randn(3, 2, 5))
    assert len(native) == len(stepwise) > 1
    for want, computed in zip(native, stepwise, strict=True):
        torch.testing.assert_close(computed, want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"nonlinearity": "relu"}, {"num_layers": 2}], ids=["relu", "deep"])
def test_step_by_step_starts_from_the_states_that_are_given_without_a_batch(settings: dict[str, Any]) -> None:
    module = module_of("RNN", **settings)
    native, stepwise = both(module, torch.randn(3, 5), torch.randn(module.num_layers, 4))
    for want, computed in zip(native, stepwise, strict=True):
        torch.testing.assert_close(computed, want, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_step_by_step_projects_the_hidden_state_where_the_module_does() -> None:
    module = module_of("LSTM", proj_size=2)
    native, stepwise = both(module, torch.randn(3, 2, 5), (torch.randn(1, 2, 2), torch.randn(1, 2, 4)))
    for want, computed in zip(native, stepwise, strict=True):
        torch.testing.assert_close(computed, want, atol=1e-6, rtol=1e-5)


def test_packed_sequences_are_refused_by_name() -> None:
    module = module_of("LSTM")
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 2, 5), [3, 2])
    with step_by_step(module), pytest.raises(TypeError, match="LSTM of packed sequences cannot be written"):
        module(packed)
    assert "forward" not in module.__dict__


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "both ways", "deep"])
def test_each_weight_of_an_lstm_is_a_layer_with_the_input_that_it_multiplies(settings: dict[str, Any]) -> None:
    module = module_of("LSTM", **settings)
    wrapped = sv.wrap(module, torch.randn(3, 2, 5))
    weights = [name for name, own in module.named_parameters() if own.dim() > 1]
    assert {layer.weight for layer in wrapped.layers} == set(weights)
    assert {layer.runs_in for layer in wrapped.layers} == {""}
    assert not wrapped.layers.skipped


class Lookup(nn.Module):
    """Adds a matrix of weights, mixes another with the input before it multiplies, and multiplies constants."""

    def __init__(self) -> None:
        super().__init__()
        self.added, self.mixed, self.unread = _Adds(), _Mixes(), _Ignores()
        self.plain = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(self.unread(self.mixed(self.added(x))))


class _Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))


class _Adds(_Holds):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class _Mixes(_Holds):
    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight * x.mean())


class _Ignores(_Holds):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_module_that_is_no_layer_says_what_its_weight_is_used_for() -> None:
    skipped = sv.wrap(Lookup(), torch.randn(4, 4)).layers.skipped
    assert {module.module: module.reason for module in skipped} == {
        "added": "runs, but its weight enters add, which is no convolution and no matrix product",
        "mixed": "runs, but its weight enters mul, which is no convolution and no matrix product",
        "unread": "runs, but no operator reads its weight: its forward computes with something else, e.g. a copy of it",
    }
