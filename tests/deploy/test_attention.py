"""``nn.MultiheadAttention`` in the forms it has: every projection is deployed in int8, and verified."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from tests.deploy.nets import SAFE, SAFE_INT8

TOKENS, WIDTH, HEADS = 7, 32, 4


class Self(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, call: dict[str, Any], sizes: dict[str, Any]) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **({"batch_first": True} | sizes))
        self.call = call

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = self.attention(x, x, x, **self.call)
        return tuple(output for output in outputs if output is not None)


ALONE = {"need_weights": False}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "weights of every head": ({"average_attn_weights": False}, {}),
    "no weights": (ALONE, {}),
    "sequence first": (ALONE, {"batch_first": False}),
    "mask of numbers": (ALONE | {"attn_mask": torch.full((TOKENS, TOKENS), float("-inf")).triu(1)}, {}),
    "mask of truths": (ALONE | {"attn_mask": torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(2)}, {}),
    "padding": (ALONE | {"key_padding_mask": torch.arange(TOKENS)[None] > 4}, {}),
    "no bias": (ALONE, {"bias": False}),
    "bias of keys and values": (ALONE, {"add_bias_kv": True}),
    "attention to zero": (ALONE, {"add_zero_attn": True}),
}


def check(model: nn.Module, x: Tensor, layers: int) -> None:
    """Every layer of a model is quantized and verified, and the outputs are those simulated."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.5)  # zeros at first: a bias that is lost would not show
    wrapped = sv.wrap(model.eval(), x)
    wrapped.calibrate([x], SAFE_INT8)
    deployed = wrapped.deploy(SAFE)
    assert deployed.plan.left_out == {}
    record = wrapped.verify(deployed)
    assert [check.status for check in record.layers] == ["verified"] * layers
    assert record.output_sqnr_db is not None
    assert record.simulation_sqnr_db is not None
    assert record.output_sqnr_db > record.simulation_sqnr_db + 6.0


@pytest.mark.parametrize(("call", "sizes"), FORMS.values(), ids=FORMS)
def test_self_attention_is_verified_in_every_form(call: dict[str, Any], sizes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Self(call, sizes)
    batch_first = sizes.get("batch_first", True)
    check(model, torch.randn(*((1, TOKENS) if batch_first else (TOKENS, 1)), WIDTH), layers=2)


def test_an_encoder_layer_which_has_a_fast_path_is_verified() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True, activation="gelu")
    check(layer, torch.randn(1, TOKENS, WIDTH), layers=4)
