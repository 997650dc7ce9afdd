"""What is quantized is what a layer multiplies, wherever its module takes it from."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import sensitivity as sv
from sensitivity.wrapped import Wrapped

Make = Callable[[], nn.Module]
ACTIVATIONS = sv.Recipe("activations", activations=sv.QuantSpec("int8", observer="minmax"))
WEIGHTS = sv.Recipe("weights", weights=sv.QuantSpec("int8", granularity="per-channel", observer="minmax"))


def rounded(x: Tensor) -> Tensor:
    """Symmetric int8 by the range of the tensor itself."""
    return torch.fake_quantize_per_tensor_affine(x, float(x.abs().max()) / 127, 0, -128, 127)


def rounded_weight(weight: Tensor, axis: int = 0) -> Tensor:
    """Symmetric int8 with a scale for each index along an axis."""
    scale = weight.abs().amax([i for i in range(weight.dim()) if i != axis]) / 127
    return torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros(len(scale)), axis, -127, 127)


def seeded(make: Make) -> nn.Module:
    """The same weights each time, large enough to matter."""
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return model


def activations_of(wrapped: Wrapped, module: str, x: object) -> Tensor:
    """The output with the input of one layer in int8."""
    layer = next(layer for layer in wrapped.layers if layer.module == module)
    args = x if isinstance(x, tuple) else (x,)
    wrapped.calibrate([x], ACTIVATIONS)
    scheme = sv.Scheme.only([layer.name], ACTIVATIONS)
    with torch.no_grad(), wrapped.quantized(scheme) as model:
        return model(*args)


def close(x: Tensor, y: Tensor) -> bool:
    """Equal but for the order of sums: a step of int8 is hundreds of times larger."""
    return torch.allclose(x, y, rtol=1e-4, atol=1e-5)


class Masked(nn.Module):
    """Attention with an additive mask that is no operand."""

    def __init__(self, mask: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("mask", torch.triu(torch.full((5, 5), mask), 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False, attn_mask=self.mask)[0]


@pytest.mark.parametrize("mask", [-1e4, float("-inf")])
def test_a_mask_of_attention_is_no_operand(mask: float) -> None:
    model, x = seeded(lambda: Masked(mask)), torch.randn(4, 5, 8)
    with torch.no_grad():
        expected = model(rounded(x))
    assert close(activations_of(sv.wrap(model, x), "attention", x), expected)


def test_a_padding_mask_is_no_operand() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, padding: Tensor, x: Tensor) -> Tensor:
            return self.attention(x, x, x, key_padding_mask=padding)[0]

    model, x = seeded(Padded), torch.randn(4, 5, 8)
    padding = torch.zeros(4, 5, dtype=torch.bool)
    padding[:, 3:] = True
    with torch.no_grad():
        expected = model(padding, rounded(x))
    assert close(activations_of(sv.wrap(model, (padding, x)), "attention", (padding, x)), expected)


@pytest.mark.parametrize("sizes", [{}, {"kdim": 6, "vdim": 4}], ids=["packed", "separate"])
def test_query_key_and_value_have_ranges_of_their_own(sizes: dict[str, int]) -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **sizes)

        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return self.attention(query, key, value)[0]

    model = seeded(Cross)
    query, key = torch.randn(2, 5, 8), torch.randn(2, 7, sizes.get("kdim", 8)) * 3
    value = torch.randn(2, 7, sizes.get("vdim", 8)) * 10
    wrapped = sv.wrap(model, (query, key, value))
    ranges = wrapped.calibrate([(query, key, value)], ACTIVATIONS).ranges
    highest = [
        observed.high[0] for point, observed in ranges.items() if "in_proj" in _weight(wrapped, point.layer)
    ] or [observed.high[0] for point, observed in ranges.items() if "_proj_weight" in _weight(wrapped, point.layer)]
    assert highest == [float(tensor.max()) for tensor in (query, key, value)]
    names = [layer.name for layer in wrapped.layers if layer.module == "attention"]
    with torch.no_grad(), wrapped.quantized(sv.Scheme.only(names, ACTIVATIONS)) as quantized:
        output = quantized(query, key, value)
    with torch.no_grad():
        assert close(output, model(rounded(query), rounded(key), rounded(value)))


def _weight(wrapped: Wrapped, name: str) -> str:
    return wrapped.layers[name].weight


def test_the_output_projection_of_attention_is_a_layer_whose_input_is_the_attended_values() -> None:
    model, x = seeded(lambda: Masked(0.0)), torch.randn(4, 5, 8)
    attention = model.attention
    bare = copy.deepcopy(attention)
    bare.out_proj.weight.data, bare.out_proj.bias.data = torch.eye(8), torch.zeros(8)
    with torch.no_grad():
        attended = bare(x, x, x)[0]
        expected = F.linear(rounded(attended), attention.out_proj.weight, attention.out_proj.bias)
    assert close(activations_of(sv.wrap(model, x), "attention.out_proj", x), expected)


def test_a_recurrent_weight_multiplies_the_hidden_state() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(4, 6)

        def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
            return self.cell(x, hidden)

    model, x, hidden = seeded(Steps), torch.randn(3, 4), torch.randn(3, 6) * 5
    wrapped = sv.wrap(model, (x, hidden))
    ranges = wrapped.calibrate([(x, hidden)], ACTIVATIONS).ranges
    highest = {_weight(wrapped, point.layer): observed.high[0] for point, observed in ranges.items()}
    assert highest == {"weight_ih": float(x.max()), "weight_hh": float(hidden.max())}


class Stored(nn.Module):
    """A weight stored (in, out), as in GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(6, 8))
        self.bias = nn.Parameter(torch.empty(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class Left(nn.Module):
    """A weight that is the first operand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight @ x.T).T


@pytest.mark.parametrize(("make", "axis"), [(Stored, 1), (Left, 0)])
def test_scales_count_the_outputs_however_a_weight_is_stored(make: Make, axis: int) -> None:
    model = seeded(lambda: nn.Sequential(make()))
    model[0].weight.data *= torch.logspace(-2, 0, 8).unsqueeze(1 - axis)
    x = torch.randn(3, 6)
    wrapped = sv.wrap(model, x)
    by_hand = copy.deepcopy(model)
    by_hand[0].weight.data = rounded_weight(model[0].weight.data, axis)
    with torch.no_grad(), wrapped.quantized(sv.Scheme.all(WEIGHTS)) as quantized:
        assert torch.equal(quantized(x), by_hand(x))


class Skips(nn.Module):
    """Adds its input to what it computes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, 3, 1, 1))

    def forward(self, bias: Tensor, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight) + x + bias


class CallsSkips(nn.Module):
    """Passes arguments in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Skips()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x=x, bias=torch.full_like(x, 1000.0))


def test_the_skip_path_and_other_arguments_are_not_quantized() -> None:
    model, x = seeded(CallsSkips), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        expected = F.conv2d(rounded(x), model.inner.weight) + x + 1000.0
    assert close(activations_of(sv.wrap(model, x), "inner", x), expected)


class Standardised(nn.Conv2d):
    """Weight standardisation."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.effective(), self.bias)

    def effective(self) -> Tensor:
        """The weight that is multiplied."""
        mean, deviation = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return (self.weight - mean) / (deviation + 1e-5)


def _pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Conv2d(3, 4, 3), "weight", amount=0.5)


def _normed(norm: Callable[[nn.Module], nn.Module]) -> Make:
    def make() -> nn.Module:
        with pytest.warns(FutureWarning, match="deprecated"):
            return norm(nn.Conv2d(3, 4, 3))

    return make


COMPUTED: dict[str, Make] = {
    "standardised": lambda: Standardised(3, 4, 3),
    "pruned": _pruned,
    "old weight norm": _normed(nn.utils.weight_norm),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_weight_is_quantized_as_computed(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(COMPUTED[name]()).eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        model(x)
        own = model[0].effective() if isinstance(model[0], Standardised) else model[0].weight
        expected = F.conv2d(x, rounded_weight(own.detach()), model[0].bias)
    wrapped = sv.wrap(model, x)
    assert "computed-weight" in wrapped.layers[0].flags
    with torch.no_grad(), wrapped.quantized(sv.Scheme.all(WEIGHTS)) as quantized:
        assert close(quantized(x), expected)
        assert not close(quantized(x), F.conv2d(x, own, model[0].bias))


def test_a_weight_that_another_module_uses_is_a_layer() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(4, 4)
            self.table = nn.Embedding(9, 4)

        def forward(self, words: Tensor) -> Tensor:
            x = F.linear(self.table(words), self.own.weight, self.own.bias)
            return F.linear(x, self.table.weight)

    model, words = seeded(Parent), torch.tensor([[1, 4, 8]])
    wrapped = sv.wrap(model, words)
    assert [layer.module for layer in wrapped.layers] == ["own", "table"]
    with torch.no_grad():
        hidden = F.linear(model.table(words), model.own.weight, model.own.bias)
        expected = F.linear(hidden, rounded_weight(model.table.weight))
        with wrapped.quantized(sv.Scheme.only([wrapped.layers[1].name], WEIGHTS)) as quantized:
            assert close(quantized(words), expected)  # the look-up in the table is not quantized


def test_a_layer_that_is_called_with_a_constant_is_a_layer() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = nn.Parameter(torch.empty(5, 8))
            self.own = nn.MultiheadAttention(8, 2, batch_first=True)
            self.cross = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            queries = self.queries.expand(len(x), -1, -1)
            target = torch.zeros_like(queries)
            attended = self.own(queries + target, queries + target, target)[0]
            return self.cross(attended + queries, x, x)[0]

    model, x = seeded(Decoder), torch.randn(2, 7, 8)
    wrapped = sv.wrap(model, x)
    assert {layer.module for layer in wrapped.layers} == {"own", "own.out_proj", "cross", "cross.out_proj"}
    assert wrapped.layers.skipped == ()
    study = wrapped.analyze(sv.FeatureFidelity(x), sv.INT8_WEIGHTS)
    assert set(study.table()["status"]) == {"measured"}


@pytest.mark.parametrize(
    "make",
    [lambda: Masked(-1e4), CallsSkips, lambda: nn.Sequential(Standardised(3, 4, 3), nn.Conv2d(4, 2, 1))],
    ids=["attention", "skip", "standardised"],
)
def test_replay_of_such_layers_is_exact(make: Make) -> None:
    model = seeded(make)
    x = torch.randn(3, 5, 8) if isinstance(model, Masked) else torch.randn(3, 3, 6, 6)
    wrapped = sv.wrap(model, x[:1])
    wrapped.calibrate(x)
    tables = [wrapped.analyze(sv.FeatureFidelity(x), sv.INT8, replay=replay).table() for replay in (True, False)]
    assert tables[0]["score"].tolist() == tables[1]["score"].tolist()
    assert set(tables[0]["status"]) == {"measured"}


@pytest.mark.parametrize("interrupt", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_stays_on_the_model(interrupt: type[BaseException] | None) -> None:
    model, x = seeded(lambda: Masked(-1e4)), torch.randn(2, 5, 8)
    wrapped = sv.wrap(model, x)
    wrapped.calibrate(x)
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    with torch.no_grad():
        before = model(x)

    def stop(*_: object) -> None:
        if interrupt is not None:
            raise interrupt("stopped inside")

    handle = model.attention.out_proj.register_forward_pre_hook(stop)
    handle.remove()
    original = F.scaled_dot_product_attention
    try:
        if interrupt is not None:
            F.scaled_dot_product_attention = stop  # type: ignore[assignment]
            with (
                pytest.raises(interrupt, match="stopped inside"),
                wrapped.quantized(sv.Scheme.all(sv.INT8)) as quantized,
            ):
                quantized(x)
        else:
            with torch.no_grad(), wrapped.quantized(sv.Scheme.all(sv.INT8)) as quantized:
                quantized(x)
    finally:
        F.scaled_dot_product_attention = original
    gc.collect()
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert torch.overrides._get_current_function_mode() is None
    with torch.no_grad():
        assert torch.equal(model(x), before)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_that_leaves_padding_out_gives_zeros_there_when_it_is_quantized() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x, src_key_padding_mask=x.abs().sum(-1) == 0)

    torch.manual_seed(0)
    model, x = Encoder().eval().requires_grad_(False), torch.randn(4, 6, 8)
    x[::2, 4:] = 0
    expected = model(x)
    wrapped = sv.wrap(model, x)
    wrapped.calibrate(x)
    for layer in wrapped.layers:
        with torch.no_grad(), wrapped.quantized(sv.Scheme.only([layer.name], sv.INT8_ACTIVATIONS)) as quantized:
            output = quantized(x)
        assert torch.equal(output[::2, 4:], expected[::2, 4:])  # zeros
        assert 0 < float((output - expected).abs().max()) < 0.1
    signals = wrapped.signals(x, sv.INT8_WEIGHTS)
    assert not signals.failed


class Circular(nn.Module):
    """Convolutions that pad by writing the image into an empty tensor, slice by slice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_what_is_written_into_an_empty_tensor_slice_by_slice_is_an_activation(
    memory_format: torch.memory_format,
) -> None:
    model = seeded(Circular)
    x = torch.randn(4, 3, 6, 7).to(memory_format=memory_format)
    wrapped = sv.wrap(model, x[:1])
    calibration = wrapped.calibrate(x, ACTIVATIONS)
    [ranges] = calibration.ranges.values()
    assert (ranges.low, ranges.high) == ((float(x.min()),), (float(x.max()),))
    with torch.no_grad():
        expected = F.conv2d(F.pad(rounded(x), (1, 1, 1, 1), mode="circular"), model.conv.weight, model.conv.bias)
    assert close(activations_of(wrapped, "conv", x), expected)


class JoinedWeight(nn.Module):
    """A weight that is put together from two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(1, 5))
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch.cat([self.upper * self.gain, self.lower]))


def test_a_weight_of_two_parameters_is_quantized_as_it_is_multiplied() -> None:
    model, x = seeded(JoinedWeight), torch.randn(6, 5)
    assert isinstance(model, JoinedWeight)
    wrapped = sv.wrap(model, x[:1])
    assert len(wrapped.layers) == 1
    with torch.no_grad(), wrapped.quantized(sv.Scheme.all(WEIGHTS)) as quantized:
        output = quantized(x)
        weight = torch.cat([model.upper * model.gain, model.lower])
    assert close(output, F.linear(x, rounded_weight(weight)))


class Complex(nn.Module):
    """A product of complex numbers, one of a real weight made complex, and a layer behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = nn.Module()
        self.mixer.weight = nn.Parameter(torch.randn(6, 6, dtype=torch.cfloat))
        self.real = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.fft.fft(x) @ self.mixer.weight @ self.real.weight.to(torch.cfloat)
        return self.head(mixed.abs())


def test_complex_products_are_no_layers_and_the_others_are_calibrated() -> None:
    torch.manual_seed(0)
    model, x = Complex().eval(), torch.randn(8, 6)
    wrapped = sv.wrap(model, x[:1])
    assert [layer.module for layer in wrapped.layers] == ["head"]
    wrapped.calibrate(x, ACTIVATIONS)
    study = wrapped.analyze(sv.FeatureFidelity(x), ACTIVATIONS, progress=False)
    assert [row.status for row in study.measurements] == ["measured"]
    reasons = {module.module: module.reason for module in study.skipped}
    assert reasons["mixer"] == "never called with the example inputs"


class Tied(nn.Module):
    """Two linears with one weight, which the parent multiplies itself; read through the second one where it says so."""

    def __init__(self, places: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.places = places

    def forward(self, x: Tensor) -> Tensor:
        for place in self.places.split():
            x = torch.tanh(F.linear(x, getattr(self, place).weight))
        return x


@pytest.mark.parametrize("places", ["first second", "second", "second first second"])
def test_a_tied_weight_is_a_layer_of_each_module_that_it_is_read_through(places: str) -> None:
    torch.manual_seed(0)
    model, x = Tied(places).eval(), torch.randn(6, 6)
    wrapped = sv.wrap(model, x[:1])
    assert {layer.module: layer.calls for layer in wrapped.layers} == {
        place: places.split().count(place) for place in places.split()
    }
    for layer in wrapped.layers:
        with torch.no_grad():
            expected = x
            for place in places.split():
                weight = model.first.weight
                expected = torch.tanh(F.linear(expected, rounded_weight(weight) if place == layer.module else weight))
            with wrapped.quantized(sv.Scheme.only([layer.name], WEIGHTS)) as quantized:
                assert close(quantized(x), expected)
    assert model.second.weight is model.first.weight
