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
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from sensitivity.errors import ModelError
from sensitivity.interception import Original, calls_handled, forward_exchanged
from sensitivity.layers.composite import base_name, run_in_parts
from sensitivity.layers.operators import ELEMENTWISE, FUSED_NORMS
from sensitivity.perturb.kept import KeptModules, Place, around
from sensitivity.perturb.weights import exchanged, folded_scale, output_axis
from sensitivity.quantize.fold import fold_batch_norm, fold_scale_shift
from sensitivity.records import Layer, Recipe
from sensitivity.records.scheme import Rest
from sensitivity.turns import process_state

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_Mark = Literal["sum", "result", "kept"]
"""A sum of integers waits for activations and a quantizer only; any other result also for a second operand; what was
computed in fp32 for whatever is not kept in fp32 itself."""

_WRITTEN_IN_HALF: tuple[_Mark, ...] = ("sum", "result")

Watch = Callable[[str, Tensor], None]
"""Told of a module's path, and of a tensor that its operations write to, or read from, memory in half precision."""

NOTHING_KEPT = KeptModules()
_FULL = (torch.float32, torch.float64)
_FUSED = ELEMENTWISE | {name for name, kind in FUSED_NORMS.items() if kind == "BatchNorm"}  # scales and shifts


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
    rounding = _Rounding(HALVES[rest], fused=fused, watch=watch)
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
        attending = {layer.module for layer in whole if layer.weight != "weight"}  # a whole attention runs inside
        return cls(
            in_integers=paths - attending,
            partly=frozenset(layer.module for layer, _ in quantized) - paths,
            stored=frozenset(path for path, modules in kept_modules.beside.items() if not modules <= paths),
            exact=frozenset((layer.module, name) for layer in whole for name in (layer.weight, *unrounded)),
            within=None if within is None else frozenset(within),
        )

    def elsewhere(self, path: str) -> bool:
        """Whether a module lies outside of all that this is about."""
        return self.within is not None and self.within.isdisjoint(around(path))


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps track of results that memory would hold in half, and rounds each in place before it is read from there."""

    def __init__(self, half: torch.dtype, *, fused: bool, watch: Watch | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.half = half
        self.path = ""
        self._fused = fused
        self._watch = watch
        self.active = False
        self._unrounded = WeakIdKeyDictionary()
        self._constants: set[int] = set()

    def spare(self, model: nn.Module) -> None:
        """Never write to the parameters and buffers that a model has now."""
        self._constants |= {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        parts = run_in_parts(func, args, kwargs, self)
        if parts is not NotImplemented:
            return parts
        floats = [leaf for leaf in _full_floats((args, kwargs)) if _storage(leaf) not in self._constants]
        mark: _Mark = "result"
        self._note(floats)
        self.read(floats, ("kept",))
        if base_name(func).removesuffix("_") not in _FUSED:
            self.read(floats)
        elif len(floats) > 1:
            self.read(floats, ("sum",))
        elif floats:
            mark = self._mark(floats[0]) or "result"
        result = func(*args, **kwargs)
        if not _is_view(func):
            self.written(result, mark)
        return result

    def _mark(self, tensor: Tensor) -> _Mark | None:
        mark: _Mark | None = self._unrounded.get(tensor)  # type: ignore[no-untyped-call]
        return mark

    def written(self, tree: Any, mark: _Mark = "result") -> None:
        """Float tensors that are to be rounded before they are read; a part of another one is rounded at once."""
        for leaf in _full_floats(tree):
            if _storage(leaf) in self._constants:
                continue
            self._unrounded[leaf] = mark
            if mark == "kept":
                continue
            self._note([leaf])
            if not self._fused or leaf.untyped_storage().nbytes() != leaf.numel() * leaf.element_size():
                self.read(leaf)

    def _note(self, tensors: list[Tensor]) -> None:
        if self._watch is not None:
            for tensor in tensors:
                self._watch(self.path, tensor)

    def read(self, tree: Any, marks: tuple[_Mark, ...] | None = None) -> None:
        """Round what is not rounded yet, in place, so that views of it and later readers see the same numbers.

        Args:
            tree: What is read.
            marks: Round only what bears one of these; None for all.
        """
        for leaf in _full_floats(tree):
            mark = self._mark(leaf)
            if mark is None or (marks is not None and mark not in marks):
                continue
            del self._unrounded[leaf]
            if self._watch is not None:
                continue
            # below autograd it is no new version of the tensor: gradients pass straight through
            with torch.inference_mode() if leaf.is_inference() else torch._C._AutoDispatchBelowAutograd():
                once = _each_element_once(leaf)
                once.copy_(self.rounded(once))

    def rounded(self, tensor: Tensor) -> Tensor:
        """A rounded copy of a tensor."""
        return tensor.to(self.half).to(tensor.dtype)


def _full_floats(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor) and leaf.dtype in _FULL]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_view(func: Any) -> bool:
    """Whether an operator returns its argument, or a part of it, as it is."""
    returns = [returned.alias_info for returned in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returns)


def _each_element_once(tensor: Tensor) -> Tensor:
    """The tensor without the axes along which it repeats itself in memory."""
    for axis, step in enumerate(tensor.stride()):
        if step == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


@contextlib.contextmanager
def _rounded_constants(
    model: nn.Module, layers: Sequence[Layer], rounding: _Rounding, kept_modules: KeptModules, roles: _Roles
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
                if tensor is None or tensor.dtype not in _FULL or (path, name) in roles.exact:
                    continue
                fold = folds.get((path, name))
                key = id(tensor) if fold is None else (path, name)
                if key not in copies:
                    copies[key] = _rounded_constant(tensor.detach(), rounding, fold)
                change = exchanged if name in module._parameters else _exchanged_buffer
                stack.enter_context(change(module, name, copies[key]))
        rounding.spare(model)
        yield


def _rounded_constant(tensor: Tensor, rounding: _Rounding, fold: tuple[Layer, Tensor] | None) -> Tensor:
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
        rounding: _Rounding,
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
        return self._rounding.rounded(leaf) if isinstance(leaf, Tensor) and leaf.dtype in _FULL else leaf

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
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.dtype in _FULL else leaf
