"""Layers that are not quantized, in bf16 or fp16: what an engine computes there, emulated in float32.

Half precision is a matter of memory: a convolution, a matrix product or a sum reads halves, adds in float32, and writes
halves. What works element by element (an activation, an add, a division) is fused with its neighbours by engines and
keeps float32 in between. So a result is rounded when something other than an elementwise operation reads it, and a
quantizer, which engines fuse as well, reads it unrounded. Overflow becomes infinity, as in fp16.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from sensitivity.errors import ModelError
from sensitivity.interception import Original, calls_handled, forward_exchanged
from sensitivity.perturb.half.kept import KeptModules, Place, around
from sensitivity.perturb.rounding_mode import FULL_PRECISION, Mark, RoundingMode, Watch
from sensitivity.perturb.weights import exchanged, folded_scale, output_axis
from sensitivity.quantize.fold import fold_batch_norm, fold_scale_shift
from sensitivity.records import Layer, Recipe
from sensitivity.records.recipes.scheme import Rest
from sensitivity.turns import process_state

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_WRITTEN_IN_HALF: tuple[Mark, ...] = ("sum", "result")

NOTHING_KEPT = KeptModules()


@contextlib.contextmanager
def in_half_precision(
    model: nn.Module,
    layers: Sequence[Layer],
    recipes: Mapping[str, Recipe],
    rest: Rest,
    kept_modules: KeptModules = NOTHING_KEPT,
    *,
    within: Sequence[str] | None = None,
    fused: bool = True,
    watch: Watch | None = None,
) -> Iterator[None]:
    """The model with everything that is not quantized computed in half precision, for the time of a ``with`` block.

    Enter it after weights were exchanged and hooks registered: weights of layers that are quantized in weight and
    activation are not rounded, nor is what hooks compute. Their biases are not in bf16, where engines add them to sums
    in float32; a graph in fp16 holds them in fp16.
    Fused attention is computed in its parts. Afterwards, also after an exception, the model is as it was.

    Args:
        model: The model.
        layers: Its layers.
        recipes: What each layer gets, by name.
        rest: ``fp32`` changes nothing.
        kept_modules: What stays in fp32; nothing inside is rounded, nor what passes from one to another or is
            returned by the model, only what is read outside.
        within: Paths of the submodules that this holds for, empty for all of the model; None for all of it, too.
        fused: Whether elementwise operations and quantizers are fused with what they read; else every result is
            rounded at once, as an engine does that runs a graph node by node.
        watch: Told of all that would be rounded; nothing is rounded then.

    Raises:
        ModelError: If the model is called from another thread, where nothing would be rounded.
    """
    if rest == "fp32":
        yield
        return
    rounding = RoundingMode(HALVES[rest], fused=fused, watch=watch)
    roles = _Roles.of(layers, recipes, rest, kept_modules, within)
    calls = _Calls(rounding, model, kept_modules, roles)
    with contextlib.ExitStack() as stack:
        rounding.spare(model)
        if watch is None:
            stack.enter_context(_rounded_constants(model, layers, rounding, kept_modules, roles))
        stack.enter_context(calls.watched())
        stack.enter_context(rounding)
        yield


@dataclass(frozen=True)
class _Roles:
    """Layers, by their modules' paths, that are not like the rest.

    Attributes:
        in_integers: They multiply integers, and nothing inside them is rounded.
        partly: Their weight or their input alone is quantized, and is then rounded like any other.
        stored: Their input is in memory, because something reads it that multiplies no integers.
        exact: Parameters that are not rounded: path of the module, and name.
        within: Where anything is rounded at all; see ``in_half_precision``.
    """

    in_integers: frozenset[str]
    partly: frozenset[str]
    stored: frozenset[str]
    exact: frozenset[tuple[str, str]]
    within: frozenset[str] | None

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        recipes: Mapping[str, Recipe],
        rest: Rest,
        kept_modules: KeptModules,
        within: Sequence[str] | None,
    ) -> _Roles:
        """From what the layers get."""
        quantized = [(layer, recipes[layer.name]) for layer in layers if layer.name in recipes]
        whole = [layer for layer, recipe in quantized if recipe.weights is not None and recipe.activations is not None]
        paths = frozenset(layer.module for layer in whole)
        unrounded = ("bias",) if rest == "bf16" else ()
        around_operators = {layer.module for layer in whole if layer.runs_in is not None or layer.weight != "weight"}
        return cls(
            in_integers=paths - around_operators,  # these may hold other layers, or a whole attention
            partly=frozenset(layer.module for layer, _ in quantized) - paths,
            stored=frozenset(path for path, modules in kept_modules.beside.items() if not modules <= paths),
            exact=frozenset((layer.module, name) for layer in whole for name in (layer.weight, *unrounded)),
            within=None if within is None else frozenset(within),
        )

    def elsewhere(self, path: str) -> bool:
        """Whether a module lies outside of all that this is about."""
        return self.within is not None and self.within.isdisjoint(around(path))


@contextlib.contextmanager
def _rounded_constants(
    model: nn.Module, layers: Sequence[Layer], rounding: RoundingMode, kept_modules: KeptModules, roles: _Roles
) -> Iterator[None]:
    """Rounded parameters and buffers in the place of the model's own; norms that are folded stay as they are."""
    scales = [(layer, folded_scale(model, layer)) for layer in layers]
    folds = {(layer.module, layer.weight): (layer, scale) for layer, scale in scales if scale is not None}
    copies: dict[Any, Tensor] = {}
    rounding.spare(model)
    with contextlib.ExitStack() as stack:
        for path, module in model.named_modules():
            if roles.elsewhere(path) or fold_scale_shift(module) is not None or kept_modules.holds(around(path)):
                continue
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is None or tensor.dtype not in FULL_PRECISION or (path, name) in roles.exact:
                    continue
                fold = folds.get((path, name))
                key = id(tensor) if fold is None else (path, name)
                if key not in copies:
                    copies[key] = _rounded_constant(tensor.detach(), rounding, fold)
                change = exchanged if name in module._parameters else _exchanged_buffer
                stack.enter_context(change(module, name, copies[key]))
        rounding.spare(model)
        yield


def _rounded_constant(tensor: Tensor, rounding: RoundingMode, fold: tuple[Layer, Tensor] | None) -> Tensor:
    """A constant as memory holds it; a weight is folded first, and the fold divided out again for the norm behind."""
    if fold is None:
        return rounding.rounded(tensor)
    layer, scale = fold
    nothing, axis = torch.zeros_like(scale), output_axis(layer)
    folded, _ = fold_batch_norm(tensor, None, scale, nothing, output_axis=axis, groups=layer.groups)
    rounded = rounding.rounded(folded)
    unfolded, _ = fold_batch_norm(rounded, None, 1 / scale, nothing, output_axis=axis, groups=layer.groups)
    return torch.where(unfolded.isnan(), tensor, unfolded)  # 0 / 0: the norm ignores what is computed


@contextlib.contextmanager
def _exchanged_buffer(module: nn.Module, name: str, tensor: Tensor) -> Iterator[None]:
    original = module._buffers[name]
    module._buffers[name] = tensor
    try:
        yield
    finally:
        module._buffers[name] = original


class _Calls:
    """Says for every module of a model whether its operations are rounded; hooks around it are not."""

    def __init__(
        self,
        rounding: RoundingMode,
        model: nn.Module,
        kept_modules: KeptModules,
        roles: _Roles,
    ) -> None:
        self._rounding = rounding
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._modules = list(model.modules())
        self._kept = kept_modules
        self._roles = roles
        self._inside = False
        self._place: Place = "outside"

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Every call of a module of the model goes through here."""
        with contextlib.ExitStack() as stack:
            for module in self._modules:
                stack.enter_context(
                    forward_exchanged(module, functools.partial(self._forward, self._paths[id(module)]))
                )
            stack.enter_context(calls_handled(self._handle, elsewhere=self._refuse))
            yield

    def _refuse(self, module: nn.Module) -> None:
        """Refuse a call in a thread whose calls are not handled.

        Raises:
            ModelError: If the module is one of the model's.
        """
        if id(module) in self._paths:
            raise ModelError(
                f"{type(module).__name__} was called from another thread than the one that set it to half "
                "precision; nothing would be rounded there. Call it from the same thread."
            )

    def _handle(self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self._paths.get(id(module))
        if path is None:
            return original(module, *args, **kwargs)
        if self._inside:
            return self._call(original, module, path, args, kwargs)
        with process_state, _attention_in_parts():
            return self._call(original, module, path, args, kwargs)

    def _call(self, original: Any, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outermost = not self._inside
        if outermost and self._roles.elsewhere(path):
            return original(module, *args, **kwargs)
        before, place = self._place, self._kept.entered(self._place, path)
        to_half, to_fp32 = outermost or place == "outside" != before, before == "outside" != place
        if outermost:
            args, kwargs = tree_map(_copied, (args, kwargs))  # the caller's tensors are not written to
        if to_half:
            self._rounding.written((args, kwargs))
        if to_fp32 or path in self._roles.stored:
            self._rounding.read((args, kwargs), _WRITTEN_IN_HALF if to_fp32 else ("sum",))
        with self._state(active=False, place=place):  # hooks
            result = original(module, *args, **kwargs)
        if to_fp32:
            self._rounding.written(result, "kept")
        if to_half:
            self._rounding.read(result, _WRITTEN_IN_HALF if outermost else None)
        return result

    def _forward(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            if not self._inside:
                return forward(*args, **kwargs)
            active = self._place == "outside"
            if path in self._roles.partly and active:
                args, kwargs = tree_map(self._rounded, (args, kwargs))
            with self._state(active=active, place=self._place, path=path):
                if path not in self._roles.in_integers or not active:
                    return forward(*args, **kwargs)
                with self._state(active=False, place=self._place, path=path):
                    result = forward(*args, **kwargs)
                self._rounding.written(result, "sum")
                return result

        return run

    def _rounded(self, leaf: Any) -> Any:
        return self._rounding.rounded(leaf) if isinstance(leaf, Tensor) and leaf.dtype in FULL_PRECISION else leaf

    @contextlib.contextmanager
    def _state(self, *, active: bool, place: Place, path: str | None = None) -> Iterator[None]:
        rounding = self._rounding
        old = rounding.active, self._inside, self._place, rounding.path
        rounding.active, self._inside, self._place = active, True, place
        rounding.path = rounding.path if path is None else path
        try:
            yield
        finally:
            rounding.active, self._inside, self._place, rounding.path = old


@contextlib.contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Attention computed by the operators it is made of, whose results can be rounded; no fused kernel."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.dtype in FULL_PRECISION else leaf
