"""However a product or a convolution is written, its whole network in int8 is that of plain layers in int8."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from tests.perturb.test_attention_forms import calls_in_int8

Form = Callable[[Tensor, Tensor, Tensor], Tensor]

READ, WRITTEN, SIDE = 6, 8, 7

PRODUCTS: dict[str, Form] = {
    "tensordot": lambda x, weight, bias: torch.tensordot(x, weight, dims=([2], [1])) + bias,
    "tensordot, weight first": lambda x, weight, bias: torch.tensordot(weight, x, ([1], [2])).permute(1, 2, 0) + bias,
    "baddbmm": lambda x, weight, bias: torch.baddbmm(bias, x, weight.T.expand(len(x), -1, -1)),
    "bmm of repeated weights": lambda x, weight, bias: torch.bmm(x, weight.T[None].repeat(len(x), 1, 1)) + bias,
    "left of the tokens": lambda x, weight, bias: (weight @ x.mT).mT + bias,
    "einsum over heads": lambda x, weight, bias: (
        torch.einsum("bni,hdi->bnhd", x, weight.unflatten(0, (2, -1))).flatten(2) + bias
    ),
    "multi_dot": lambda x, weight, bias: (
        torch.linalg.multi_dot([x.flatten(0, 1), weight.T]).view(*x.shape[:2], -1) + bias
    ),
    "inner": lambda x, weight, bias: torch.inner(x, weight) + bias,
    "conv1d": lambda x, weight, bias: F.conv1d(x.mT, weight[..., None], bias).mT,
    "vmap": lambda x, weight, bias: torch.func.vmap(lambda sample: F.linear(sample, weight, bias))(x),
    "added in place": lambda x, weight, bias: F.linear(x, weight).add_(bias),
}
"""From (batch, tokens, READ) to (batch, tokens, WRITTEN)."""

CONVOLUTIONS: dict[str, Form] = {
    "unfold and a product": lambda x, weight, bias: (
        (weight.flatten(1) @ F.unfold(x, 3, padding=1)).unflatten(2, x.shape[2:]) + bias[:, None, None]
    ),
    "unfold and einsum": lambda x, weight, bias: (
        torch.einsum("ok,bkn->bon", weight.flatten(1), F.unfold(x, 3, padding=1)).unflatten(2, x.shape[2:])
        + bias[:, None, None]
    ),
    "windows and tensordot": lambda x, weight, bias: (
        torch.tensordot(F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1), weight, ([1, 4, 5], [1, 2, 3])) + bias
    ).permute(0, 3, 1, 2),
    "padding in words": lambda x, weight, bias: F.conv2d(x, weight, bias, padding="same"),
}
"""From (batch, READ, SIDE, SIDE) to (batch, WRITTEN, SIDE, SIDE), as a convolution of 3 x 3 with padding."""


class Written(nn.Module):
    """A product in one of its forms, ReLU and a plain layer."""

    def __init__(self, form: Form, first: nn.Linear | nn.Conv2d, last: nn.Module) -> None:
        super().__init__()
        assert first.bias is not None
        self.form, self.last = form, last
        self.weight, self.bias = nn.Parameter(first.weight.detach()), nn.Parameter(first.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.form(x, self.weight, self.bias).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [*PRODUCTS, *CONVOLUTIONS])
def test_the_whole_network_in_int8_is_that_of_plain_layers(name: str) -> None:
    torch.manual_seed(0)
    first: nn.Linear | nn.Conv2d = nn.Linear(READ, WRITTEN)
    last: nn.Module = nn.Linear(WRITTEN, 4)
    x = torch.randn(3, 5, READ)
    if name in CONVOLUTIONS:
        first, last = nn.Conv2d(READ, WRITTEN, 3, padding=1), nn.Conv2d(WRITTEN, 4, 1)
        x = torch.randn(3, READ, SIDE, SIDE)
    model = Written((PRODUCTS | CONVOLUTIONS)[name], first, last)
    plain = nn.Sequential(first, nn.ReLU(), last)
    wrapped = sv.wrap(model.eval(), x[:1])
    wrapped.calibrate(x, sv.INT8_MINMAX)
    with torch.no_grad():
        in_float = plain(x)
        assert torch.allclose(model(x), in_float, atol=1e-5)
        with wrapped.quantized(sv.Scheme.all(sv.INT8_MINMAX)) as quantized:
            output = quantized(x)
        expected = calls_in_int8(plain, x)
    error = float((output - expected).abs().max())
    assert len(wrapped.layers) == 2
    assert float((expected - in_float).abs().max()) > 30 * error
