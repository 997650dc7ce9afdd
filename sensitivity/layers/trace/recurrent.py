"""Recurrent layers step by step, in the products that torch's fused operators and ONNX's LSTM and GRU nodes hide.

All steps of a sequence are multiplied by the input weight at once, and each hidden state by the hidden weight, as torch
does where it does not fuse them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensitivity.interception import Original, forward_exchanged

FUSED_LSTM = "mkldnn_rnn_layer"
"""The operator that one direction of one layer of ``nn.LSTM`` is on a CPU."""

State = tuple[Tensor, Tensor]
"""Hidden state and cell state, each (N, H); the second is not used by a GRU or a plain RNN."""


def parts_of_fused_lstm(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``aten.mkldnn_rnn_layer`` returns for inference, in operators that hooks can see.

    Args:
        args: Those of the operator: input (T, N, I), four weights and biases, hidden and cell state, whether it runs
            backwards, and settings.

    Returns:
        The outputs (T, N, H), the last hidden and cell state, and an empty workspace.
    """
    values, weight, hidden_weight, bias, hidden_bias, hidden, cell, backwards = args[:8]
    has_biases = args[_HAS_BIASES]
    weights = _Weights(weight, hidden_weight, *((bias, hidden_bias) if has_biases else (None, None)))
    shape = hidden.shape
    outputs, (last, last_cell) = _direction(
        _lstm, values, (hidden.flatten(0, -2), cell.flatten(0, -2)), weights, backwards
    )
    return outputs, last.reshape(shape), last_cell.reshape(shape), values.new_empty(0)


_HAS_BIASES = 12  # position among the arguments of the operator


@dataclass(frozen=True, eq=False)
class _Weights:
    """The parameters of one direction of one layer."""

    input: Tensor
    hidden: Tensor
    bias: Tensor | None
    hidden_bias: Tensor | None
    projection: Tensor | None = None


_Step = Callable[[Tensor, Tensor, State], State]
"""What the input's and the hidden state's products make of a state."""


def _direction(step: _Step, values: Tensor, state: State, weights: _Weights, backwards: bool) -> tuple[Tensor, State]:
    """All steps of one direction of one layer: outputs (T, N, H) and the last state."""
    from_input = F.linear(values, weights.input, weights.bias)
    order = range(values.shape[0])
    outputs = []
    for number in reversed(order) if backwards else order:
        from_hidden = F.linear(state[0], weights.hidden, weights.hidden_bias)
        hidden, cell = step(from_input[number], from_hidden, state)
        state = (hidden if weights.projection is None else F.linear(hidden, weights.projection), cell)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


def _lstm(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    enter, forget, candidate, leave = (from_input + from_hidden).chunk(4, 1)
    cell = forget.sigmoid() * state[1] + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def _gru(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    reset, update, candidate = from_input.chunk(3, 1)
    hidden_reset, hidden_update, hidden_candidate = from_hidden.chunk(3, 1)
    update_gate = (update + hidden_update).sigmoid()
    new = (candidate + (reset + hidden_reset).sigmoid() * hidden_candidate).tanh()
    return (state[0] - new) * update_gate + new, state[1]


def _plain(nonlinearity: Callable[[Tensor], Tensor]) -> _Step:
    return lambda from_input, from_hidden, state: (nonlinearity(from_input + from_hidden), state[1])


_STEPS: dict[str, _Step] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN_TANH": _plain(torch.tanh),
    "RNN_RELU": _plain(torch.relu),
}


@contextlib.contextmanager
def step_by_step(model: nn.Module) -> Iterator[None]:
    """Recurrent modules of a model computed step by step for the time of a ``with`` block, so that a trace sees it.

    Args:
        model: In eval mode; its modules get another ``forward`` and their own back.
    """
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.RNNBase):
                forward = _forward_of(module)
                stack.enter_context(forward_exchanged(module, functools.partial(_instead, forward)))
        yield


def _instead(forward: Original, _: Original) -> Original:
    return forward


def _forward_of(module: nn.RNNBase) -> Callable[..., tuple[Tensor, Any]]:
    def forward(values: Tensor, states: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(values, Tensor):
            raise TypeError(f"a {type(module).__name__} of packed sequences cannot be written step by step.")
        return _unrolled(module, values, states)

    return forward


_BATCHED = 3  # dimensions of a batch of sequences


def _unrolled(module: nn.RNNBase, values: Tensor, states: Any) -> tuple[Tensor, Any]:
    """What a recurrent module returns in eval mode."""
    is_batched = values.dim() == _BATCHED
    has_cell = module.mode == "LSTM"
    values = values.transpose(0, 1) if is_batched and module.batch_first else values
    values = values if is_batched else values.unsqueeze(1)
    start = _start(module, values, states, is_batched=is_batched)
    ends: list[State] = []
    for depth in range(module.num_layers):
        outputs = []
        for backwards in range(1 + module.bidirectional):
            state = start[0][len(ends)], start[1][len(ends)]
            weights = _weights_of(module, f"_l{depth}" + "_reverse" * backwards)
            written, end = _direction(_STEPS[module.mode], values, state, weights, bool(backwards))
            outputs.append(written)
            ends.append(end)
        values = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    last = [torch.stack([end[state] for end in ends]) for state in range(1 + has_cell)]
    if not is_batched:
        values, last = values.squeeze(1), [state.squeeze(1) for state in last]
    elif module.batch_first:
        values = values.transpose(0, 1)
    return values, tuple(last) if has_cell else last[0]


def _start(module: nn.RNNBase, values: Tensor, states: Any, *, is_batched: bool) -> State:
    """Hidden and cell states of all directions, each (directions, N, H): zeros where none are given."""
    count = module.num_layers * (1 + module.bidirectional)
    if states is None:
        sizes = (module.proj_size or module.hidden_size, module.hidden_size)
        hidden, cell = (values.new_zeros(count, values.shape[1], size) for size in sizes)
        return hidden, cell
    hidden, cell = states if module.mode == "LSTM" else (states, states)
    return (hidden, cell) if is_batched else (hidden.unsqueeze(1), cell.unsqueeze(1))


def _weights_of(module: nn.RNNBase, ending: str) -> _Weights:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return _Weights(*(module._parameters.get(name + ending) for name in names))  # type: ignore[arg-type]
