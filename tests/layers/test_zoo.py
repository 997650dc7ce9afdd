"""Every fact that was written by hand about the zoo of awkward models must be read off the model by ``wrap``."""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sensitivity as sv
from sensitivity.errors import TracingError
from sensitivity.layers.table import LayerTable
from sensitivity.records import Layer
from tests.models import CASES, Case
from tests.models.plain import Plain

OPERATORS = (nn.modules.conv._ConvNd, nn.Linear)

every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


@functools.cache
def table_of(name: str, seed: int = 0) -> LayerTable:
    case = CASES[name]
    return sv.wrap(case.build(seed), case.inputs).layers


def certain_layers(case: Case) -> list[Layer]:
    """The layers found, less those that a correct reading may also skip."""
    return [layer for layer in table_of(case.name) if layer.module not in case.either]


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, tuple):
        return inputs, {}
    return ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})


@contextmanager
def every_module_called() -> Iterator[None]:
    """Without the fused path of torch's encoder layer, which calls no module inside."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


# what is found ----------------------------------------------------------------------------------------------------


@every_case
def test_layers_are_exactly_those_expected_in_execution_order(case: Case) -> None:
    assert [layer.module for layer in certain_layers(case)] == [right.module for right in case.layers]


@every_case
def test_norm_and_activation_are_those_that_follow_by_data_flow(case: Case) -> None:
    wrong = [
        (right.module, layer.norm, layer.activation)
        for right, layer in zip(case.layers, certain_layers(case), strict=True)
        if layer.norm not in right.norms or layer.activation not in right.activations
    ]
    assert wrong == []


@every_case
def test_flags_say_where_in_the_structure_a_layer_stands(case: Case) -> None:
    wrong = [
        (right.module, "missing", sorted(right.has - layer.flags), "too many", sorted(right.lacks & layer.flags))
        for right, layer in zip(case.layers, certain_layers(case), strict=True)
        if not right.has <= layer.flags or right.lacks & layer.flags
    ]
    assert wrong == []


@every_case
def test_flags_agree_with_the_other_facts_of_a_layer(case: Case) -> None:
    for layer in table_of(case.name):
        assert ("no-norm" in layer.flags) == (layer.norm is None)
        assert ("no-activation" in layer.flags) == (layer.activation is None)
        assert ("shared" in layer.flags) == (layer.calls > 1)


@every_case
def test_kind_role_and_operator_are_right_wherever_they_are_certain(case: Case) -> None:
    wrong = [
        (right.module, field, getattr(layer, field), getattr(right, field))
        for right, layer in zip(case.layers, certain_layers(case), strict=True)
        for field in ("kind", "role", "conv_type")
        if getattr(right, field) is not None and getattr(layer, field) != getattr(right, field)
    ]
    assert wrong == []


@every_case
def test_nothing_with_a_weight_is_left_out_in_silence(case: Case) -> None:
    table = table_of(case.name)
    reasons = {skipped.module: skipped.reason for skipped in table.skipped}
    layers = {layer.module for layer in table}
    operators = {path for path, module in case.build().named_modules() if isinstance(module, OPERATORS)}
    assert (operators | case.either) - layers - set(reasons) == set()
    assert layers & set(reasons) == set()
    for path, word in case.skipped.items():
        assert word in reasons[path]


# names and order ----------------------------------------------------------------------------------------------------


@every_case
def test_names_are_unique_and_read_stage_block_layer(case: Case) -> None:
    names = [layer.name for layer in table_of(case.name)]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[^:]+:\d+:\d+", name)


@every_case
def test_order_and_calls_are_those_that_plain_hooks_see(case: Case) -> None:
    model, seen = case.build(), []
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, path=path: seen.append(path))
    positional, keywords = arguments(case.inputs)
    with torch.no_grad(), every_module_called():
        model(*positional, **keywords)
    table = table_of(case.name)
    counted = Counter(seen)
    assert [layer.order for layer in table] == list(range(len(table)))
    assert [layer.module for layer in certain_layers(case)] == [
        path for path in counted if path in {right.module for right in case.layers}
    ]
    assert {right.module: right.calls for right in case.layers} == {
        right.module: counted[right.module] for right in case.layers
    }
    assert all(layer.calls == counted[layer.module] for layer in certain_layers(case))


def facts(table: LayerTable) -> list[tuple[Any, ...]]:
    """All that must not depend on weights, image size or batch."""
    return [
        (layer.name, layer.module, layer.kind, layer.role, layer.flags, layer.norm, layer.activation, layer.calls)
        for layer in table
    ]


@every_case
def test_other_weights_give_the_same_names_and_facts(case: Case) -> None:
    assert facts(table_of(case.name, 0)) == facts(table_of(case.name, 7))


@pytest.mark.parametrize("name", ["basic_blocks", "linear_attention", "pyramid", "inverted_residuals"])
def test_another_image_size_gives_the_same_names_and_facts(name: str) -> None:
    case = CASES[name]
    larger = torch.randn(2, 3, 64, 48)
    assert facts(sv.wrap(case.build(), larger).layers) == facts(table_of(name))


@pytest.mark.parametrize(
    "context",
    [
        torch.inference_mode,
        torch.no_grad,
        torch.enable_grad,
        functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    ],
    ids=["inference_mode", "no_grad", "enable_grad", "autocast"],
)
@pytest.mark.parametrize("name", ["plain", "basic_blocks", "vision_transformer", "counter", "mlp"])
def test_the_mode_in_which_wrap_is_called_changes_nothing(
    name: str, context: Callable[[], AbstractContextManager[object]]
) -> None:
    case = CASES[name]
    model, inputs = case.build(), case.inputs
    with context():
        table = sv.wrap(model, inputs).layers
    assert facts(table) == facts(table_of(name))
    assert [layer.macs for layer in table] == [layer.macs for layer in table_of(name)]


@every_case
def test_a_layer_is_found_by_its_name_and_by_its_module_path(case: Case) -> None:
    table = table_of(case.name)
    for layer in table:
        assert table[layer.name] is layer
        assert table[layer.module] is next(other for other in table if other.module == layer.module)


@every_case
def test_repr_shows_the_layers(case: Case) -> None:
    table = table_of(case.name)
    text = repr(table)
    assert table[0].name in text
    assert str(len(table)) in text


# cost ---------------------------------------------------------------------------------------------------------------


def counted_macs(case: Case) -> dict[str, int]:
    """Multiply-adds of each expected layer's own module, by torch's flop counter."""
    model = case.build()
    positional, keywords = arguments(case.inputs)
    with torch.no_grad(), every_module_called(), FlopCounterMode(display=False) as counter:
        model(*positional, **keywords)
    flops, root = counter.get_flop_counts(), type(model).__name__
    modules = dict(model.named_modules())
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(f"{root}.{path}")
    return {
        right.module: sum(sum(flops.get(path, {}).values()) for path in paths[modules[right.module]]) // 2
        for right in case.layers
    }


COUNTER_OF_2_4_FAILS_ON = {
    "recursive": "it raises 'The Module hierarchy tracking is wrong'",
    "weight_norm": "its hooks hide the parametrized weight",
    "spectral_norm": "its hooks hide the parametrized weight",
    "own_modes": "it counts nothing under a dispatch mode of the model's own",
}


@every_case
def test_multiply_adds_agree_with_the_flop_counter_of_torch(case: Case) -> None:
    if torch.__version__.startswith("2.4.") and case.name in COUNTER_OF_2_4_FAILS_ON:
        pytest.skip(f"torch 2.4's counter cannot count this: {COUNTER_OF_2_4_FAILS_ON[case.name]}")
    assert {layer.module: layer.macs for layer in certain_layers(case)} == counted_macs(case)


def test_a_batch_of_two_costs_twice_as_much_as_a_batch_of_one() -> None:
    single, two = table_of("plain"), table_of("plain_batch_of_two")
    assert [2 * layer.macs for layer in single] == [layer.macs for layer in two]
    assert [2 * layer.activation_elements for layer in single] == [layer.activation_elements for layer in two]
    assert [layer.name for layer in single] == [layer.name for layer in two]


# no trace -----------------------------------------------------------------------------------------------------------


def bits(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    copy = tensor.detach().clone(memory_format=torch.preserve_format).contiguous()
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), copy.view(-1).view(torch.uint8).numpy().tobytes()


def hooks_of(module: nn.Module) -> dict[str, list[Any]]:
    return {key: list(value.items()) for key, value in vars(module).items() if key.endswith("_hooks") and value}


def state_of(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """All of a model that a guest must leave as it was, in comparable form."""
    for path, module in model.named_modules():
        yield f"{path} mode", (module.training, type(module), sorted(vars(module)))
        yield f"{path} hooks", hooks_of(module)
    for path, parameter in model.named_parameters():
        yield f"{path} identity", (id(parameter), parameter.data_ptr(), parameter._version, parameter.requires_grad)
        yield f"{path} bits", (bits(parameter), bits(parameter.grad))
    for path, buffer in model.named_buffers():
        yield f"{path} buffer", (buffer.data_ptr(), bits(buffer))


def surroundings() -> dict[str, Any]:
    """What belongs to the process and not to the model."""
    return {
        "torch generator": torch.get_rng_state().numpy().tobytes(),
        "python generator": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "call": (nn.Module.__call__, nn.Module._call_impl),
        "functions": tuple(vars(torch.nn.functional).values()),
        "global hooks": {
            key: dict(value) for key, value in vars(nn.modules.module).items() if key.startswith("_global_") and value
        },
    }


def assert_leaves_no_trace(model: nn.Module, act: Callable[[], object]) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    before, outside = dict(state_of(model)), surroundings()
    act()
    after = dict(state_of(model))
    assert list(after) == list(before)
    assert [key for key in before if before[key] != after[key]] == []
    now = surroundings()
    assert [key for key in outside if outside[key] != now[key]] == []


@every_case
def test_wrap_leaves_the_model_and_the_process_as_they_were(case: Case) -> None:
    model, inputs = case.build(), case.inputs
    assert_leaves_no_trace(model, lambda: sv.wrap(model, inputs).layers)


@every_case
def test_wrap_leaves_the_example_inputs_as_they_were(case: Case) -> None:
    inputs = case.inputs
    assert len(sv.wrap(case.build(), inputs).layers) > 0
    assert repr(inputs) == repr(case.inputs)


class Stops(nn.Module):
    """Raises in the middle of its forward pass, behind its first layer."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        self.norm(self.conv(x))
        raise self.error


def test_an_error_in_forward_becomes_a_tracing_error_and_leaves_no_trace() -> None:
    model, image = Stops(ValueError("the image is too dark")), torch.rand(1, 3, 4, 4)

    def act() -> None:
        with pytest.raises(TracingError, match="the image is too dark") as caught:
            assert sv.wrap(model, image).layers
        assert isinstance(caught.value.__cause__, ValueError)

    assert_leaves_no_trace(model, act)


def test_an_interrupt_in_forward_passes_through_and_leaves_no_trace() -> None:
    model, image = Stops(KeyboardInterrupt()), torch.rand(1, 3, 4, 4)

    def act() -> None:
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            assert sv.wrap(model, image).layers

    assert_leaves_no_trace(model, act)


@pytest.mark.parametrize(
    "inputs", [torch.rand(1, 5, 16, 16), (), {"y": torch.rand(1, 3, 16, 16)}], ids=["channels", "none", "keyword"]
)
def test_inputs_that_do_not_fit_are_refused_and_leave_no_trace(inputs: Any) -> None:
    model = Plain()

    def act() -> None:
        with pytest.raises(TracingError, match="Plain"):
            assert sv.wrap(model, inputs).layers

    assert_leaves_no_trace(model, act)
