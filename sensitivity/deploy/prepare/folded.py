"""A copy of the model with batch norms folded into the layers before them: what is simulated is what is exported."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.errors import ExportError, TracingError
from sensitivity.layers.table import LayerTable
from sensitivity.layers.trace.inputs import copied, tensors_in
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.weights import output_axis
from sensitivity.quantize.fold import fold_batch_norm, fold_scale_shift
from sensitivity.records import Layer

LEAST_FOLD_SQNR_DB = 60.0
"""A folded copy whose outputs differ more than this from the model's is not trusted: rounding alone stays above 90."""

LAST_BITS = 1e-6
"""By which inputs are changed to see whether outputs can be compared at all: 120 dB, where float32 rounds at 150."""


@dataclass(frozen=True, eq=False)
class Folded:
    """A copy of a model, in eval mode, that computes the same with fewer norms.

    Attributes:
        model: The copy.
        layers: Its layers; one that took over its norm has none.
        kept: Layers whose norm could not be folded, with the reason.
    """

    model: nn.Module
    layers: LayerTable
    kept: Mapping[str, str]


@torch.no_grad()
def folded_copy(model: nn.Module, layers: LayerTable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Folded:
    """Copy a model and fold every batch norm that only one layer feeds into that layer.

    The result is checked, not believed: where the copy computes something else, the norms stay. Where the last bits of
    the inputs decide what the model returns (the order of boxes), each layer is compared by itself instead.

    Args:
        model: Any module; not changed.
        layers: Its layers.
        args: Positional arguments to check the copy with.
        kwargs: Keyword arguments likewise.

    Raises:
        ExportError: If the model cannot be copied.
        TracingError: If it cannot be run.
    """
    duplicate, plain = _baked(_copy(model), layers)
    expected, runs = _run_counted(duplicate, plain, args, kwargs)
    folds, unfolded = _foldable(duplicate, plain, runs)

    def judge(chosen: list[Layer]) -> str | None:
        copied, _ = _baked(_copy(model), layers)
        _fold(copied, chosen)
        return _difference(copied, expected, args, kwargs)

    good, blamed = _search(folds, judge)
    if blamed and _last_bits_decide(duplicate, expected, args, kwargs):
        whole, _ = _baked(_copy(model), layers)
        _fold(whole, folds)
        blamed = _wrong_by_themselves(whole, duplicate, folds, args, kwargs)
        good = [layer for layer in folds if layer.name not in blamed]
    _fold(duplicate, good)
    taken = {layer.name for layer in good}
    changed = [replace(layer, norm=None, norm_module=None) if layer.name in taken else layer for layer in plain]
    table = LayerTable(changed, model=layers.model, skipped=layers.skipped)
    return Folded(duplicate, table, unfolded | blamed)


def _last_bits_decide(model: nn.Module, expected: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a model returns something else for inputs that are hardly changed."""
    random = torch.Generator().manual_seed(0)
    changed_args, changed_kwargs = tree_map(partial(_hardly_changed, random), (args, kwargs))
    return _difference(model, expected, changed_args, changed_kwargs) is not None


def _hardly_changed(random: torch.Generator, leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    return leaf * (1 + LAST_BITS * torch.randn(leaf.shape, generator=random).to(leaf))


def _wrong_by_themselves(
    folded: nn.Module, model: nn.Module, layers: list[Layer], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, str]:
    """The layers that compute something else than before with their norm, from the same input, with the reason."""
    worst_db: dict[str, float] = {}

    def compare(layer: Layer, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert layer.norm_module is not None
        expected = model.get_submodule(layer.norm_module)(model.get_submodule(layer.module)(*inputs))
        actual = folded.get_submodule(layer.norm_module)(output.clone())
        worst_db[layer.name] = min(worst_db.get(layer.name, math.inf), sqnr_db(expected, actual))

    with hooked(after=[(folded.get_submodule(layer.module), partial(compare, layer)) for layer in layers]):
        _run(folded, args, kwargs)
    return {
        name: f"folding changed what its norm writes (SQNR {agreed_db:.1f} dB)"
        for name, agreed_db in worst_db.items()
        if agreed_db < LEAST_FOLD_SQNR_DB
    }


def _fold(model: nn.Module, layers: list[Layer]) -> None:
    for layer in layers:
        _fold_into(model, layer)
    for path in dict.fromkeys(layer.norm_module for layer in layers):
        assert path is not None
        _take_out(model, path)


def _search(folds: list[Layer], judge: Callable[[list[Layer]], str | None]) -> tuple[list[Layer], dict[str, str]]:
    """The layers that can be folded together, and why each of the others cannot; those of one norm go together."""
    norms: dict[str | None, list[Layer]] = {}
    for layer in folds:
        norms.setdefault(layer.norm_module, []).append(layer)
    waiting = [list(norms.values())] if norms else []
    good: list[Layer] = []
    blamed: dict[str, str] = {}
    while waiting:
        group = waiting.pop(0)
        layers = [layer for norm in group for layer in norm]
        reason = judge([*good, *layers])
        if reason is None:
            good += layers
        elif len(group) == 1:
            blamed |= dict.fromkeys((layer.name for layer in layers), reason)
        else:
            waiting[:0] = [group[: len(group) // 2], group[len(group) // 2 :]]
    return good, blamed


def _copy(model: nn.Module) -> nn.Module:
    """A frozen copy in which no two layers share a weight, so that each can be quantized by itself."""
    other_dtypes = sorted(
        {str(p.dtype) for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32}
    )
    if other_dtypes:
        raise ExportError(
            f"{type(model).__name__} holds weights in {', '.join(other_dtypes)}; a graph with Q/DQ is written in "
            "float32.",
            python="Wrap model.float() instead.",
            shell="Let MODEL return model.float().",
        )
    try:
        duplicate = copy.deepcopy(model).eval()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ExportError(f"{type(model).__name__} cannot be copied: {error}. Give copy.deepcopy what it needs.") from (
            error
        )
    seen: set[int] = set()
    for module in duplicate.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            tensor = parameter.detach().clone() if id(parameter) in seen else parameter.detach()
            module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
            seen.add(id(parameter))
    return duplicate


def _baked(duplicate: nn.Module, layers: LayerTable) -> tuple[nn.Module, LayerTable]:
    """The copy with parametrized weights (weight norm, spectral norm) replaced by what they are in eval mode."""
    baked = set()
    for path, module in duplicate.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        # not remove_parametrizations: it takes the weight from a class that the copy shares with the caller's model
        weights = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, weight in weights.items():
            module._parameters[name] = nn.Parameter(weight, requires_grad=False)
        baked.add(path)
    plain = [_with_plain_weight(duplicate, layer) if layer.module in baked else layer for layer in layers]
    return duplicate, LayerTable(plain, model=layers.model, skipped=layers.skipped)


def _with_plain_weight(duplicate: nn.Module, layer: Layer) -> Layer:
    """The layer once its weight is a parameter of its own."""
    plain = isinstance(duplicate.get_submodule(layer.module), (_ConvNd, nn.Linear))
    return replace(
        layer,
        flags=layer.flags - {"computed-weight"},
        parameter=f"{layer.module}.{layer.weight}" if layer.module else layer.weight,
        output_axis=1 if layer.conv_type.startswith("ConvTranspose") else 0,
        runs_in=None if plain else layer.runs_in,
    )


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    try:
        return [tensor.clone() for tensor in tensors_in(model(*copied(args), **copied(kwargs)))]
    except Exception as error:
        raise TracingError(f"{type(model).__name__} fails with the example inputs: {error}.") from error


def _run_counted(
    model: nn.Module, layers: LayerTable, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Tensor], Counter[str]]:
    """The outputs, and how often each norm runs."""
    runs: Counter[str] = Counter()
    norms = {layer.norm_module for layer in layers if layer.norm_module is not None}
    hooks = [(model.get_submodule(path), partial(_count, runs, path)) for path in norms]
    with hooked(before=hooks):
        return _run(model, args, kwargs), runs


def _count(runs: Counter[str], path: str, *_: Any) -> None:
    runs[path] += 1


def _foldable(model: nn.Module, layers: LayerTable, runs: Counter[str]) -> tuple[list[Layer], dict[str, str]]:
    folds, unfolded = [], {}
    calls: Counter[str | None] = Counter()
    for layer in layers:
        calls[layer.norm_module] += layer.calls
    for layer in layers:
        if layer.norm is None:
            continue
        if layer.norm_module is None:
            unfolded[layer.name] = f"its {layer.norm} is no module of its own, or another one at each call"
        elif fold_scale_shift(model.get_submodule(layer.norm_module)) is None:
            unfolded[layer.name] = f"its {layer.norm} depends on its input"
        elif not layer.norm_folds:
            unfolded[layer.name] = f"its {layer.norm} counts another axis than the channels that the layer writes"
        elif runs[layer.norm_module] > calls[layer.norm_module]:
            unfolded[layer.name] = (
                f"its {layer.norm} is also used elsewhere: it runs {runs[layer.norm_module]} times, "
                f"the layers before it {calls[layer.norm_module]} times"
            )
        elif not isinstance(model.get_submodule(layer.module), (_ConvNd, nn.Linear)):
            unfolded[layer.name] = f"its module is no convolution or linear layer of torch: {layer.conv_type}"
        elif "computed-weight" in layer.flags or layer.weight != "weight":
            unfolded[layer.name] = "its weight is computed in each pass"
        else:
            folds.append(layer)
    return folds, unfolded


def _fold_into(model: nn.Module, layer: Layer) -> None:
    assert layer.norm_module is not None
    module, norm = model.get_submodule(layer.module), model.get_submodule(layer.norm_module)
    assert isinstance(module, (_ConvNd, nn.Linear))
    scale_and_shift = fold_scale_shift(norm)
    assert scale_and_shift is not None
    weight, bias = fold_batch_norm(
        module.weight, module.bias, *scale_and_shift, output_axis=output_axis(layer), groups=layer.groups
    )
    module.weight = nn.Parameter(weight, requires_grad=False)
    module.bias = nn.Parameter(bias, requires_grad=False)


def _take_out(model: nn.Module, path: str) -> None:
    """Replace a norm by what it holds besides, e.g. the activation of timm's BatchNormAct2d."""
    parent, _, name = path.rpartition(".")
    remaining = list(model.get_submodule(path).children())
    model.get_submodule(parent)._modules[name] = nn.Sequential(*remaining) if remaining else nn.Identity()


def _difference(model: nn.Module, expected: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Why the copy is not the model, or None if it is."""
    try:
        outputs = _run(model, args, kwargs)
    except TracingError as error:
        return f"without its norms the model no longer runs: {error}"
    if [tensor.shape for tensor in outputs] != [tensor.shape for tensor in expected]:
        return "folding changed the shapes of the outputs"
    worst = min((sqnr_db(was, now) for was, now in zip(expected, outputs, strict=True)), default=float("inf"))
    if worst < LEAST_FOLD_SQNR_DB:
        return f"folding changed the outputs (SQNR {worst:.1f} dB): its norm is also used elsewhere"
    return None
