"""The SQNR of a layer's own output, also of one that is a step inside a module and whose output leaves none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.sweep.signals.local import LocalProduct
from tests.perturb.test_dynamic_kernels import BOTH, Dynamic, by_sum, images, net
from tests.perturb.test_operands import rounded, rounded_weight


def sqnr(pairs: list[tuple[Tensor, Tensor]]) -> float:
    signal = sum(float(plain.double().square().sum()) for plain, _ in pairs)
    noise = sum(float((plain.double() - changed.double()).square().sum()) for plain, changed in pairs)
    return 10 * float(torch.tensor(signal / noise).log10())


def measured(model: nn.Module, x: Tensor, module: str, attribute: str = "weight") -> float:
    wrapped = sv.wrap(model.eval(), x)
    [name] = [layer.name for layer in wrapped.layers if (layer.module, layer.weight) == (module, attribute)]
    signals = wrapped.signals(x, BOTH, calibration=x)
    assert not signals.failed
    assert not signals.notes
    return signals[name]["layer_sqnr_db"]


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


@torch.no_grad()
def test_the_projections_of_attention_are_compared_as_they_are_multiplied() -> None:
    torch.manual_seed(0)
    model, x = Attends(), torch.randn(3, 5, 8)
    attention = model.attention
    plain = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    changed = F.linear(rounded(x), rounded_weight(attention.in_proj_weight), attention.in_proj_bias)
    expected = sqnr([(plain, changed)])
    assert measured(model, x, "attention", "in_proj_weight") == pytest.approx(expected, abs=0.01)


@torch.no_grad()
def test_attention_to_something_else_has_signals_though_its_joint_weight_is_multiplied_in_parts() -> None:
    class Crosses(Attends):
        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x[:, :2], x, x)[0]

    torch.manual_seed(0)
    model, x = Crosses(), torch.randn(3, 5, 8)
    attention, pairs = model.attention, []
    for read, part in ((x[:, :2], slice(8)), (x, slice(8, None))):
        weight, bias = attention.in_proj_weight[part], attention.in_proj_bias[part]
        pairs.append((F.linear(read, weight, bias), F.linear(rounded(read), rounded_weight(weight), bias)))
    wrapped = sv.wrap(model.eval(), x)
    [name] = [layer.name for layer in wrapped.layers if layer.weight == "in_proj_weight"]
    signals = wrapped.signals(x, BOTH, calibration=x)[name]
    assert signals["layer_sqnr_db"] == pytest.approx(sqnr(pairs), abs=0.01)
    assert signals["dead_share"] == 0
    magnitudes = x.abs().amax((0, 1))
    assert signals["channel_ratio"] == pytest.approx(float(magnitudes.max() / magnitudes.median()), rel=1e-6)


class Loop(nn.Module):
    """A weight that multiplies what it gave in the step before, stored as (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.hidden = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for _ in range(3):
            h = torch.tanh(h @ self.hidden)
        return h


@torch.no_grad()
def test_every_product_of_a_recurrent_weight_reads_what_it_reads_unperturbed() -> None:
    torch.manual_seed(0)
    model, x = Loop(), torch.randn(5, 4)
    h, pairs = model.first(x), []
    for _ in range(3):
        pairs.append((h @ model.hidden, rounded(h) @ rounded_weight(model.hidden, axis=1)))
        h = torch.tanh(pairs[-1][0])
    assert measured(model, x, "", "hidden") == pytest.approx(sqnr(pairs), abs=0.01)


@torch.no_grad()
def test_a_part_that_runs_several_times_in_a_pass_has_a_range_for_each_of_its_products() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attends = Attends()

        def forward(self, x: Tensor) -> Tensor:
            return self.attends(5 * self.attends(x))

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(3, 5, 8)
    attention = model.attends.attention
    second = 5 * model.attends(x)
    pairs = [
        (
            F.linear(read, attention.in_proj_weight, attention.in_proj_bias),
            F.linear(rounded(read), rounded_weight(attention.in_proj_weight), attention.in_proj_bias),
        )
        for read in (x, second)
    ]
    assert measured(model, x, "attends.attention", "in_proj_weight") == pytest.approx(sqnr(pairs), abs=0.01)


@torch.no_grad()
def test_a_dynamic_convolution_is_compared_image_by_image() -> None:
    model, x = net(by_sum), images()
    dynamic = model.dynamic
    assert isinstance(dynamic, Dynamic)
    kernels = dynamic.kernels(dynamic, model.coefficients(x))
    pairs = [
        (F.conv2d(image, kernel, padding=1), F.conv2d(quantized, rounded_weight(kernel), padding=1))
        for image, quantized, kernel in zip(x.split(1), rounded(x).split(1), kernels, strict=True)
    ]
    assert measured(model, x, "dynamic", "experts") == pytest.approx(sqnr(pairs), abs=0.01)


class CountingAttention(nn.MultiheadAttention):
    """Multiplies what it reads by the number of its calls, or by one."""

    calls, step = 0, 1

    def forward(self, query: Tensor, *args: Tensor, **kwargs: object) -> tuple[Tensor, Tensor | None]:
        self.calls += self.step
        return super().forward(query * max(1, self.calls), *args, **kwargs)


@torch.no_grad()
def test_what_a_call_changes_is_put_back_before_the_next_comparison() -> None:
    torch.manual_seed(0)
    counting, plain, x = Attends(), Attends(), torch.randn(3, 5, 8)
    counting.attention, plain.attention = (CountingAttention(8, 2, batch_first=True) for _ in range(2))
    plain.attention.load_state_dict(counting.attention.state_dict())
    plain.attention.step = 0
    frames = [sv.wrap(model.eval(), x).signals(x, BOTH, calibration=x).to_frame() for model in (counting, plain)]
    assert frames[0].equals(frames[1])


@torch.no_grad()
def test_where_a_module_cannot_run_again_a_note_says_why_and_the_other_signals_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no second call")

    torch.manual_seed(0)
    monkeypatch.setattr(LocalProduct, "_run", refuse)
    wrapped = sv.wrap(Attends().eval(), torch.randn(2, 5, 8))
    signals = wrapped.signals(torch.randn(2, 5, 8), sv.INT8_WEIGHTS)
    [name] = [layer.name for layer in wrapped.layers if layer.weight == "in_proj_weight"]
    assert "layer_sqnr_db" not in signals[name]
    assert signals[name]["output_sqnr_db"] > 0
    assert f"{name} has no layer_sqnr_db: RuntimeError: no second call" in signals.notes
