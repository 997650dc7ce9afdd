"""Every form of ``nn.MultiheadAttention`` in int8 computes what four plain linear layers in int8 compute.

The same attention is written out with plain layers, whose inputs and weights are rounded by torch's own functions and
whose ranges are taken by hooks.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from tests.perturb.test_operands import rounded_weight

WIDTH, HEADS, QUERIES, KEYS = 8, 2, 5, 6


@dataclass(frozen=True)
class Form:
    """How attention is made and called.

    Attributes:
        settings: Of the module.
        source: Where keys and values come from: ``itself``, ``memory``, or ``two`` tensors.
        padding: Type of the mask of keys, if any.
        mask: Type of the mask of pairs, if any.
        weights: Whether it also returns the weights, which keeps torch from its fused kernel.
        frozen: Whether no parameter has a gradient, which lets torch take its fast path.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    source: str = "itself"
    padding: torch.dtype | None = None
    mask: torch.dtype | None = None
    weights: bool = False
    frozen: bool = False


FORMS = {
    "fast path": Form({"batch_first": True}, frozen=True),
    "fast path with padding": Form({"batch_first": True}, padding=torch.bool, frozen=True),
    "sequence first": Form({}, mask=torch.float32, weights=True),
    "causal": Form({"batch_first": True}, mask=torch.bool),
    "causal and padded": Form({"batch_first": True}, padding=torch.bool, mask=torch.bool, weights=True),
    "no bias": Form({"bias": False}, source="memory", mask=torch.float32),
    "other keys": Form({"batch_first": True}, source="memory", padding=torch.float32),
    "other keys and values": Form({}, source="two", padding=torch.bool, weights=True),
    "other sizes": Form({"kdim": 6, "vdim": 4, "batch_first": True}, source="two", padding=torch.bool),
    "a bias as a token": Form({"add_bias_kv": True}, source="two", padding=torch.bool),
    "a token of zeros": Form({"add_zero_attn": True, "batch_first": True}, source="memory", mask=torch.float32),
    "both tokens": Form({"add_bias_kv": True, "add_zero_attn": True, "kdim": 6, "vdim": 4}, source="two", weights=True),
}


class Network(nn.Module):
    """A linear layer, attention and another linear layer; the memory is a parameter."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.before, self.after = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **form.settings)
        self.keys = nn.Parameter(torch.randn(KEYS, form.settings.get("kdim", WIDTH)))
        self.values = nn.Parameter(torch.randn(KEYS, form.settings.get("vdim", WIDTH)))
        for parameter in self.parameters():
            parameter.data = torch.randn_like(parameter) * 0.3
            parameter.requires_grad_(not form.frozen)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries = self.before(x)
        keys, values = (memory.expand(len(x), -1, -1) for memory in (self.keys, self.values))
        return queries, *{"itself": (queries, queries), "memory": (keys, keys), "two": (keys, values)}[self.form.source]

    def masks(self, queries: Tensor, keys: Tensor) -> tuple[Tensor | None, Tensor | None]:
        padding = torch.zeros(keys.shape[:2], dtype=torch.bool)
        padding[:, -2:] = True
        later = torch.ones(queries.shape[1], keys.shape[1], dtype=torch.bool).triu(1)
        masked, dtypes = (padding, later), (self.form.padding, self.form.mask)
        both = [None if dtype is None else _as(mask, dtype) for mask, dtype in zip(masked, dtypes, strict=True)]
        return both[0], both[1]

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.operands(x)
        padding, mask = self.masks(queries, keys)
        if not self.attention.batch_first:
            queries, keys, values = (tensor.transpose(0, 1) for tensor in (queries, keys, values))
        attended = self.attention(
            queries, keys, values, key_padding_mask=padding, attn_mask=mask, need_weights=self.form.weights
        )[0]
        return self.after(attended if self.attention.batch_first else attended.transpose(0, 1))


def _as(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return mask if dtype is torch.bool else torch.zeros(mask.shape).masked_fill(mask, -math.inf)


class WrittenOut(nn.Module):
    """The same function of plain layers, with the weights of a ``Network``."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = [network]  # not a part of this module
        attention = network.attention
        packed = attention.in_proj_weight
        separate = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        weights = separate if packed is None else packed.chunk(3)
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        self.query, self.key, self.value = map(_linear, weights, biases)
        self.out = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.before = _linear(network.before.weight, network.before.bias)
        self.after = _linear(network.after.weight, network.after.bias)

    def forward(self, x: Tensor) -> Tensor:
        network, attention = self.network[0], self.network[0].attention
        queries = self.before(x)
        _, keys, values = network.operands(x)
        if network.form.source == "itself":
            keys = values = queries
        padding, mask = network.masks(queries, keys)
        q, k, v = self.query(queries), self.key(keys), self.value(values)
        tokens = [] if attention.bias_k is None else [(attention.bias_k, attention.bias_v)]
        tokens += [(torch.zeros(1, 1, WIDTH),) * 2] if attention.add_zero_attn else []
        for key, value in tokens:
            k, v = (torch.cat([t, new.expand(len(t), 1, -1)], 1) for t, new in ((k, key), (v, value)))
        q, k, v = (tensor.unflatten(-1, (HEADS, -1)).transpose(1, 2) for tensor in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        for hidden in (padding if padding is None else padding[:, None, None], mask):
            if hidden is not None:
                added = hidden if hidden.dtype != torch.bool else _as(hidden, torch.float32)
                scores = scores + nn.functional.pad(added, (0, len(tokens)))
        return self.after(self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.data = weight.detach().clone()
    if bias is not None:
        linear.bias.data = bias.detach().clone()
    return linear


def calls_in_int8(model: nn.Module, x: Tensor) -> Any:
    """The output with every layer's input and weight in symmetric int8, by the ranges of the float model's calls."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    largest: dict[tuple[nn.Module, int], float] = {}
    calls: Counter[nn.Module] = Counter()

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[layer, calls[layer]] = float(inputs[0].abs().max())
        calls[layer] += 1

    def change(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        scale = max(largest[layer, calls[layer]] / 127, 2.0**-63)
        calls[layer] += 1
        return torch.fake_quantize_per_tensor_affine(inputs[0], scale, 0, -128, 127)

    handles = [layer.register_forward_pre_hook(watch) for layer in layers]
    model(x)
    for handle in handles:
        handle.remove()
    calls.clear()
    for layer in layers:
        layer.weight.data = rounded_weight(layer.weight.data)
        layer.register_forward_pre_hook(change)
    return model(x)


@pytest.mark.parametrize("name", FORMS)
def test_the_whole_network_in_int8_is_that_of_plain_layers(name: str) -> None:
    network = Network(FORMS[name]).eval()
    x = torch.randn(3, QUERIES, WIDTH)
    with torch.no_grad():
        in_float, written_out = network(x), WrittenOut(network).eval()
        assert torch.allclose(written_out(x), in_float, atol=1e-5)
        expected = calls_in_int8(written_out, x)
        wrapped = sv.wrap(network, x[:1])
        wrapped.calibrate(x, sv.INT8_MINMAX)
        with wrapped.quantized(sv.Scheme.all(sv.INT8_MINMAX)) as quantized:
            output = quantized(x)
        assert torch.equal(network(x), in_float)
    error = float((output - expected).abs().max())
    assert error < 1e-4
    assert float((expected - in_float).abs().max()) > 30 * error  # int8 is far from float, and this is the same int8
