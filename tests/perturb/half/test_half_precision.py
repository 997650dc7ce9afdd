"""The rest in half precision: as torch's own half operators, undone afterwards, and kept in fp32 where asked."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

import sensitivity as sv
from sensitivity.contracts.task import arguments_of
from sensitivity.errors import LayerNotFoundError, ModelError
from sensitivity.perturb.half.half_precision import in_half_precision
from sensitivity.perturb.half.kept import find_kept
from tests.models import CASES
from tests.perturb.test_perturber import trace_of

BF16 = sv.Scheme().with_rest("bf16")
FP16 = sv.Scheme().with_rest("fp16")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Does(nn.Module):
    """A function and the modules that it uses."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *self.parts)


class HandwrittenNorm(nn.Module):
    """LayerNorm over channels, written out as EfficientViT-SAM does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = x - x.mean(1, keepdim=True)
        out = out / torch.sqrt((out**2).mean(1, keepdim=True) + 1e-6)
        return out * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def in_half(model: nn.Module, *inputs: Tensor, rest: str = "bf16") -> Any:
    with in_half_precision(model, [], {}, rest):  # type: ignore[arg-type]
        return model(*inputs)


OPERATORS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "conv": (lambda: nn.Conv2d(3, 8, 3), [(2, 3, 9, 9)]),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), [(2, 6, 9, 9)]),
    "linear": (lambda: nn.Linear(32, 16), [(4, 32)]),
    "matmul": (lambda: Does(torch.matmul), [(2, 5, 16), (2, 16, 7)]),
    "gelu": (nn.GELU, [(4, 64)]),
    "layer norm": (lambda: nn.LayerNorm(24), [(5, 24)]),
    "softmax": (lambda: nn.Softmax(-1), [(5, 24)]),
    "add": (lambda: Does(torch.add), [(5, 24), (5, 24)]),
    "mean": (lambda: Does(lambda x: x.mean((2, 3))), [(2, 4, 9, 9)]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_what_torch_gives_in_bfloat16_to_the_last_but_one_value(name: str) -> None:
    make, shapes = OPERATORS[name]
    torch.manual_seed(0)
    model = make()
    inputs = [torch.randn(shape).bfloat16().float() for shape in shapes]
    output = in_half(model, *inputs)
    expected = model.bfloat16()(*[tensor.bfloat16() for tensor in inputs])
    assert torch.equal(output, output.bfloat16().float()), "not every value is one of bfloat16"
    steps = (output.bfloat16().view(torch.int16).int() - expected.view(torch.int16).int()).abs()
    near_zero = (output - expected.float()).abs() < 1e-3  # neighbours across zero are many patterns apart
    assert ((steps <= 1) | near_zero).all()


def test_overflow_is_infinite_in_fp16_and_not_in_bf16() -> None:
    model, operand = Does(lambda x: (x * x).sum()), torch.tensor([70000.0**0.5])
    assert in_half(model, operand, rest="fp16") == float("inf")
    assert in_half(model, operand, rest="bf16") == torch.tensor(70000.0).bfloat16()
    assert in_half(nn.Identity(), torch.tensor(70000.0), rest="fp16") == float("inf")


def test_elementwise_operations_are_fused_and_keep_float_in_between() -> None:
    operand = torch.tensor([300.0])
    assert in_half(Does(lambda x: x * x / 1000), operand, rest="fp16") == torch.tensor(90.0)
    assert in_half(Does(lambda x: (x * x).reshape(1) / 1000), operand, rest="fp16") == float("inf")


def test_views_and_operations_in_place_see_the_rounded_values() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        out = F.avg_pool2d(x, 1)  # a new tensor
        row = out[:, 0]
        out += 0.001
        out[:, 1].mul_(1.001)
        return out, row, out.flatten(), out.transpose(0, 1)

    for tensor in in_half(Does(function), torch.randn(1, 2, 3, 3)):
        assert torch.equal(tensor, tensor.bfloat16().float())


def test_the_callers_inputs_are_not_written_to() -> None:
    operand = torch.randn(4)
    before = operand.clone()
    in_half(Does(lambda x: x.relu_() + 1), operand)
    assert torch.equal(operand, before)


@pytest.mark.parametrize("fail", [None, ValueError("broken"), KeyboardInterrupt("broken")])
def test_nothing_is_left_behind(fail: BaseException | None) -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.register_buffer("seen", torch.rand(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += x.mean()
            x = self.conv(x * self.seen)
            if fail is not None:
                raise fail
            return x

    model = Failing()
    own = model.conv.forward
    model.conv.forward = own  # an instance's own forward returns as well
    x = torch.rand(1, 3, 4, 4)
    before, call = trace_of(model), nn.Module.__call__
    attributes = {path: list(vars(module)) for path, module in model.named_modules()}
    try:
        in_half(model, x)
    except (ValueError, KeyboardInterrupt) as error:
        assert error is fail  # noqa: PT017 - both ways out are tried
    assert trace_of(model) == before
    assert nn.Module.__call__ is call
    assert {path: list(vars(module)) for path, module in model.named_modules()} == attributes
    assert model.conv.forward is own


CHOOSES = {"detector_batch_of_two"}  # the best few: rounding may swap two that are nearly as good


@pytest.mark.parametrize("name", sorted(CASES))
def test_awkward_models_run_near_to_float_and_are_left_as_they_were(name: str) -> None:
    case = CASES[name]
    model = case.build()
    wrapped = sv.wrap(model, case.inputs)
    before = trace_of(model)
    outputs = []
    for scheme in (sv.Scheme(), BF16):
        args, kwargs = arguments_of(copy.deepcopy(case.inputs))
        with wrapped.quantized(scheme):
            outputs.append(tree_flatten(model(*args, **kwargs))[0])
    assert trace_of(model) == before
    plain, half = outputs
    if name in CHOOSES:
        return
    for was, now in zip(plain, half, strict=True):
        if isinstance(was, Tensor) and was.is_floating_point():
            assert (was - now).norm() <= 0.05 * was.norm() + 1e-3


def test_weights_of_int8_layers_are_not_rounded_and_their_inputs_neither() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).eval(), torch.randn(1, 3, 8, 8)
    wrapped = sv.wrap(model, x)
    wrapped.calibrate([x])
    int8 = sv.Scheme.all(sv.INT8)
    with wrapped.quantized(int8):
        expected = model(x)
    with wrapped.quantized(int8.with_rest("bf16")):
        output = model(x)
    assert torch.equal(output, expected.bfloat16().float()), "something but the output was rounded"


class AtOperators(nn.Module):
    """Layers without modules of their own: a product, a function, and a convolution whose weight is computed."""

    def __init__(self, kind: str, name: str = "matrix") -> None:
        super().__init__()
        self.kind, self.name = kind, name
        self.first, self.last = (nn.Conv2d(8, 8, 1) if kind == "convolution" else nn.Linear(8, 8) for _ in range(2))
        self.register_parameter(name, nn.Parameter(torch.randn(8, 8)))

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.first(x), self.get_parameter(self.name)
        if self.kind == "convolution":
            x = F.conv2d(x, (weight - weight.mean())[..., None, None])
        else:
            x = x @ weight if self.kind == "product" else F.linear(x, weight)
        return self.last(x.relu())


@pytest.mark.parametrize("kind", ["product", "function", "convolution"])
def test_what_int8_layers_at_operators_multiply_is_not_rounded(kind: str) -> None:
    torch.manual_seed(0)
    model, x = AtOperators(kind).eval(), torch.randn(1, 8, 8, 8) if kind == "convolution" else torch.randn(1, 16, 8)
    wrapped = sv.wrap(model, x)
    wrapped.calibrate([x])
    int8 = sv.Scheme.all(sv.INT8)
    assert len(wrapped.layers) == 3
    with wrapped.plan(int8).simulated() as simulated:
        expected = simulated(x)
    with wrapped.plan(int8.with_rest("bf16")).simulated() as simulated:
        output = simulated(x)
    assert torch.equal(output, expected.bfloat16().float()), "something but the output was rounded"


def test_what_surrounds_an_int8_layer_at_an_operator_is_rounded_whatever_its_parameter_is_called() -> None:
    outputs = []
    for name in ("matrix", "weight"):
        torch.manual_seed(0)
        model, x = AtOperators("product", name).eval(), torch.randn(1, 16, 8)
        wrapped = sv.wrap(model, x)
        wrapped.calibrate([x])
        scheme = sv.Scheme.all(sv.INT8).protect(["first*", "last*"]).with_rest("bf16")
        with wrapped.plan(scheme).simulated() as simulated:
            outputs.append(simulated(x))
    assert torch.equal(*outputs)


def test_a_weight_that_alone_is_quantized_is_rounded_with_the_rest() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False)).eval(), torch.randn(1, 3, 8, 8)
    wrapped = sv.wrap(model, x)
    with wrapped.quantized(sv.Scheme.all(sv.INT8_WEIGHTS)):
        weight = model[0].weight.detach().clone()
    with wrapped.quantized(sv.Scheme.all(sv.INT8_WEIGHTS).with_rest("bf16")):
        assert torch.equal(model[0].weight, weight.bfloat16().float())


def test_a_weight_is_folded_before_it_is_rounded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    nn.init.uniform_(model[1].weight, 0.5, 2.0)
    with sv.wrap(model, torch.randn(1, 3, 4, 4)).quantized(BF16):
        scale = (model[1].weight / (model[1].running_var + model[1].eps).sqrt()).view(-1, 1, 1, 1)
        folded = model[0].weight * scale
    torch.testing.assert_close(folded, folded.bfloat16().float(), rtol=1e-6, atol=0.0)


def test_a_norm_that_counts_another_axis_than_the_channels_is_not_folded_before_the_weight_is_rounded() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(5)

        def forward(self, x: Tensor) -> Any:
            return self.norm(self.project(x))

    model = Tokens().eval()
    rounded = model.project.weight.detach().bfloat16().float()
    with sv.wrap(model, torch.randn(2, 5, 4)).quantized(BF16):
        assert torch.equal(model.project.weight, rounded)


def test_another_thread_is_refused() -> None:
    model, caught = nn.Linear(2, 2), []

    def call() -> None:
        try:
            model(torch.ones(1, 2))
        except ModelError as error:
            caught.append(str(error))

    with in_half_precision(model, [], {}, "bf16"):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert "called from another thread" in caught[0]


class Normed(nn.Module):
    """A convolution with large outputs and a norm written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = HandwrittenNorm(16)
        self.head = nn.Conv2d(16, 4, 1)
        nn.init.normal_(self.conv.weight, std=200.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)))


class Attending(nn.Module):
    """ReLU linear attention, whose sums over all places are large."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(3, 48, 1)
        self.proj = nn.Conv2d(16, 4, 1)
        nn.init.normal_(self.qkv.weight, std=20.0)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).flatten(2).chunk(3, 1)
        query, key, value = F.relu(query), F.relu(key), F.pad(value, (0, 0, 0, 1), value=1.0)
        out = value @ key.transpose(-1, -2) @ query
        return self.proj((out[:, :-1] / (out[:, -1:] + 1e-6)).unflatten(2, x.shape[2:]))


@pytest.mark.parametrize(("make", "word"), [(Normed, "norms"), (Attending, "attention")])
def test_what_overflows_in_fp16_is_saved_by_fp32_where_it_matters(make: type[nn.Module], word: str) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(1, 3, 16, 16)
    wrapped = sv.wrap(model, x)
    expected = model(x)
    with wrapped.quantized(FP16):
        ruined = model(x)
    with wrapped.quantized(sv.Scheme().with_rest("fp16", keep_fp32=word)):
        saved = model(x)
    assert not (ruined - expected).norm() < 0.3 * expected.norm(), "true for NaN, too"
    assert (saved - expected).norm() < 0.01 * expected.norm()


def test_inside_of_a_kept_module_nothing_is_rounded_but_what_others_read_of_it() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)), torch.randn(1, 3, 8, 8).bfloat16().float()
    expected, rounded = model(x), model[1](model[0](x).bfloat16().float())
    wrapped = sv.wrap(model, x)
    with wrapped.quantized(sv.Scheme().with_rest("bf16", keep_fp32="0")):
        assert torch.equal(model(x), rounded)
    with wrapped.quantized(sv.Scheme().with_rest("bf16", keep_fp32=("0", "1"))):
        assert torch.equal(model(x), expected)


def test_norms_and_attention_are_found_by_what_they_do() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 1)
            self.plain = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(8))
            self.by_hand = HandwrittenNorm(16)
            self.groups = nn.GroupNorm(4, 16)
            self.attend = Does(self._attend, nn.Linear(16, 48), nn.Softmax(-1), nn.LayerNorm(16))
            self.head = nn.Conv2d(16, 4, 1)

        @staticmethod
        def _attend(x: Tensor, qkv: nn.Module, softmax: nn.Module, norm: nn.Module) -> Tensor:
            query, key, value = qkv(norm(x)).chunk(3, -1)
            return x + softmax(query @ key.transpose(-1, -2)) @ value

        def forward(self, x: Tensor) -> Tensor:
            x = self.groups(self.by_hand(self.plain(self.stem(x))))
            return self.head(self.attend(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8)))

    model, x = Block().eval(), torch.randn(1, 3, 8, 8)
    layers = sv.wrap(model, x).layers
    in_float = find_kept(model, layers, sv.Scheme().with_rest("bf16", keep_fp32=("norms", "attention")), x)
    assert in_float.whole == {"by_hand", "groups", "attend.parts.2"}
    assert in_float.bodies == {"attend"}
    assert in_float.holds(["", "attend"])
    assert in_float.holds(["", "attend", "attend.parts.1"])
    assert not in_float.holds(["", "attend", "attend.parts.0"]), "a layer of the attention is not its body"
    assert not in_float.holds(["", "plain"])
    globbed = find_kept(model, layers, sv.Scheme().with_rest("bf16", keep_fp32="attend.parts.*"), x)
    assert globbed.whole == {"attend.parts.0", "attend.parts.1", "attend.parts.2"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("norms", "no module that is a LayerNorm"),
        ("attention", "nothing in Sequential multiplies two tensors"),
        ("fisrt", r"'fisrt', which is no module of Sequential. Nearest: 'first'"),
    ],
)
def test_what_is_to_be_kept_and_is_not_there_is_an_error(entry: str, message: str) -> None:
    model = nn.Sequential()
    model.add_module("first", nn.Conv2d(3, 4, 1))
    wrapped = sv.wrap(model, torch.randn(1, 3, 4, 4))
    with (
        pytest.raises(LayerNotFoundError, match=message),
        wrapped.quantized(sv.Scheme().with_rest("bf16", keep_fp32=entry)),
    ):
        pass
    with pytest.raises(LayerNotFoundError, match=message):
        wrapped.plan(sv.Scheme().with_rest("bf16", keep_fp32=entry))


def test_evaluate_scores_the_rest_in_half_precision() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    wrapped = sv.wrap(Attending().eval(), x)
    task = sv.FeatureFidelity(list(x))
    fidelity = {rest: wrapped.evaluate(task, sv.Scheme().with_rest(rest)).value for rest in ("fp32", "bf16")}
    assert fidelity["fp32"] == 150.0  # what equal outputs are given
    assert 20.0 < fidelity["bf16"] < 80.0
