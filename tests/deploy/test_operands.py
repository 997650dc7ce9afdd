"""Whatever a module multiplies, and however it holds its weight: simulated, exported and verified alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from tests.deploy.nets import SAFE
from tests.models.operands import READ, TOKENS, Row
from tests.perturb.test_operands import COMPUTED, Standardised

EXACT = sv.Recipe(
    "exact", sv.QuantSpec("int7", "per-channel", observer="minmax"), sv.QuantSpec("int8", observer="minmax")
)


def rounded(x: Tensor) -> Tensor:
    """Symmetric int8 by the range of the tensor itself."""
    return torch.fake_quantize_per_tensor_affine(x, float(x.abs().max()) / 127, 0, -128, 127)


def rounded_rows(weight: Tensor) -> Tensor:
    """Symmetric in 7 bits, with a scale for each row."""
    scale = weight.abs().flatten(1).amax(1) / 63
    return torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros(len(scale)), 0, -63, 63)


@torch.no_grad()
def steps(output: Tensor, expected: Tensor, unrounded: Tensor) -> float:
    """How far a result is from what was computed by hand, as a share of what rounding its operands changes."""
    return float((output - expected).abs().max() / (unrounded - expected).abs().max())


@pytest.fixture(scope="module")
def row() -> tuple[sv.Wrapped, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(1, TOKENS, READ)
    wrapped = sv.wrap(Row().eval(), x)
    wrapped.calibrate([x], EXACT)
    return wrapped, x


@pytest.fixture(scope="module")
def by_hand(row: tuple[sv.Wrapped, Tensor]) -> list[Tensor]:
    wrapped, x = row
    other = torch.flip(x, (1,)) * 7
    with torch.no_grad():
        return [
            module.compute(other, x, rounded, rounded, rounded_rows(module.multiplied()))
            for module in wrapped.model.all
        ]


def close_to(outputs: tuple[Tensor, ...], row: tuple[sv.Wrapped, Tensor], by_hand: list[Tensor]) -> list[str]:
    """What differs by more than the order of sums."""
    wrapped, x = row
    with torch.no_grad():
        unrounded = wrapped.model(x)
    pairs = zip(wrapped.model.all, outputs, by_hand, unrounded, strict=True)
    return [f"{m.product}, {m.storage}, {m.call}" for m, *tensors in pairs if not steps(*tensors) < 1e-3]


def test_exactly_the_operands_are_quantized_in_simulation(
    row: tuple[sv.Wrapped, Tensor], by_hand: list[Tensor]
) -> None:
    wrapped, x = row
    assert len(wrapped.layers) == len(by_hand)
    with torch.no_grad(), wrapped.quantized(sv.Scheme.all(EXACT)) as model:
        outputs = model(x)
    assert close_to(outputs, row, by_hand) == []


def test_exactly_the_operands_are_quantized_in_the_graph(row: tuple[sv.Wrapped, Tensor], by_hand: list[Tensor]) -> None:
    wrapped, x = row
    deployed = wrapped.deploy(sv.Scheme.all(EXACT), "onnxruntime")
    assert deployed.plan.left_out == {}
    assert close_to(deployed(x), row, by_hand) == []


def test_every_operand_is_verified(row: tuple[sv.Wrapped, Tensor]) -> None:
    wrapped, _ = row
    verification = wrapped.verify(wrapped.deploy(sv.Scheme.all(EXACT)))
    assert {check.module: str(check.status) for check in verification.layers if check.status != "verified"} == {}
    assert all(check.codes for check in verification.layers)


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_weight_is_exported_as_computed(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(COMPUTED[name]()).eval()
    x = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        model(x)
        own = model[0].effective() if isinstance(model[0], Standardised) else model[0].weight
        expected = nn.functional.conv2d(rounded(x), rounded_rows(own.detach()), model[0].bias)
    wrapped = sv.wrap(model, x)
    wrapped.calibrate([x], EXACT)
    deployed = wrapped.deploy(sv.Scheme.all(EXACT), "onnxruntime")
    assert deployed.plan.left_out == {}
    assert steps(deployed(x), expected, model(x)) < 1e-3


class Cross(nn.Module):
    """Attention of one sequence to another, with a mask."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True, **sizes)
        self.register_buffer("mask", torch.triu(torch.full((5, 7), float("-inf")), 2))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.attention(query, key, value, attn_mask=self.mask)[0]


@pytest.mark.parametrize("sizes", [{}, {"kdim": 16, "vdim": 24}], ids=["packed", "separate"])
def test_cross_attention_is_deployed_and_verified(sizes: dict[str, int]) -> None:
    torch.manual_seed(0)
    key, value = torch.randn(1, 7, sizes.get("kdim", 32)), torch.randn(1, 7, sizes.get("vdim", 32)) * 3
    inputs = (torch.randn(1, 5, 32), key, value)
    wrapped = sv.wrap(Cross(sizes).eval(), inputs)
    wrapped.calibrate([inputs])
    deployed = wrapped.deploy(SAFE)
    assert deployed.plan.left_out == {}
    verification = wrapped.verify(deployed)
    assert {check.status for check in verification.layers} == {"verified"}
    with deployed.plan.simulated() as model:
        simulated = model(*inputs)
    with torch.no_grad():
        assert steps(deployed(*inputs), simulated, wrapped.model(*inputs)) < 0.05


class Contracted(nn.Module):
    """A convolution whose channels a product contracts that the graph writes behind a transposition."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,oc->bohw", torch.relu(self.conv(x)), self.linear.weight)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_layer_in_front_of_a_transposed_product_is_verified(engine: str) -> None:
    """Its codes had been compared with those of the product's input in another order."""
    x = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    wrapped = sv.wrap(Contracted().eval(), x[:1])
    wrapped.calibrate([x], EXACT)
    record = wrapped.verify(wrapped.deploy(sv.Scheme.all(EXACT), engine, threads=1))
    assert "disagrees" not in {str(check.status) for check in record.layers}
    assert record.passed


@pytest.mark.parametrize("rest", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["tied", *COMPUTED])
def test_a_computed_weight_is_known_again_in_half_precision(name: str, rest: Any) -> None:
    """What is compared had been rounded to half on the way, so that it was taken for another weight."""
    torch.manual_seed(0)
    model = Tied() if name == "tied" else nn.Sequential(COMPUTED[name]())
    x = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        model.eval()(x)
    wrapped = sv.wrap(model, x)
    wrapped.calibrate([x], EXACT)
    plan, in_fp32 = (wrapped.plan(sv.Scheme.all(EXACT).with_rest(each)) for each in (rest, "fp32"))
    with plan.simulated() as halves:
        output = halves(x)
    with in_fp32.simulated() as whole:
        expected = whole(x)
    assert 0.0 < float((output - expected).abs().max()) < 0.05 * float(expected.abs().max())


class Cancelled(nn.Module):
    """A weight that is small beside what it is computed of, which half precision rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.large = nn.Parameter(torch.randn(8, 3) / 10), nn.Parameter(torch.full((3,), 100.3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight + self.large - 100.3)


def test_a_weight_that_half_precision_moves_far_is_known_again() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    wrapped = sv.wrap(Cancelled().eval(), x)
    wrapped.calibrate([x], EXACT)
    for rest in ("bf16", "fp16"):
        with wrapped.plan(sv.Scheme.all(EXACT).with_rest(rest)).simulated() as model:
            assert model(x).isfinite().all()


class Tied(nn.Module):
    """A weight that is multiplied as it is, and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(3, 16), nn.Parameter(torch.randn(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        encoded = nn.functional.linear(self.first(x.mean((2, 3))), self.weight)
        return nn.functional.linear(encoded, self.weight.t())
