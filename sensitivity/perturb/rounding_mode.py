"""Results that memory would hold in half precision, each rounded before it is read from there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

from sensitivity.layers.dataflow.operators import ELEMENTWISE, FUSED_NORMS
from sensitivity.layers.trace.composite import base_name, run_in_parts

Mark = Literal["sum", "result", "kept"]
"""A sum of integers waits for activations and a quantizer only; any other result also for a second operand; what was
computed in fp32 for whatever is not kept in fp32 itself."""

Watch = Callable[[str, Tensor], None]
"""Told of a module's path, and of a tensor that its operations write to, or read from, memory in half precision."""

FULL_PRECISION = (torch.float32, torch.float64)

_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm"})
_RESHAPES = frozenset({"view", "_unsafe_view"})
"""What torch wraps around a matrix product of inputs of more axes."""

_FUSED = ELEMENTWISE | {name for name, kind in FUSED_NORMS.items() if kind == "BatchNorm"}  # scales and shifts


class RoundingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps track of results that memory would hold in half, and rounds each in place before it is read from there."""

    def __init__(self, half: torch.dtype, *, fused: bool, watch: Watch | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.half = half
        self.path = ""
        self._fused = fused
        self._watch = watch
        self.active = False
        self._unrounded = WeakIdKeyDictionary()
        self._products = WeakIdKeyDictionary()  # results of matrix products as their operators gave them
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
        name = base_name(func).removesuffix("_")
        if name in _RESHAPES and (args[0] in self._products or _merges_rows(*args)):
            return self._reshaped(func, args, kwargs)
        floats = [leaf for leaf in _full_floats((args, kwargs)) if _storage(leaf) not in self._constants]
        mark: Mark = "result"
        self._note(floats)
        self.read(floats, ("kept",))
        if name not in _FUSED:
            self.read(floats)
        elif len(floats) > 1:
            self.read(floats, ("sum",))
        elif floats:
            mark = self._mark(floats[0]) or "result"
        result = func(*args, **kwargs)
        if not _is_view(func):
            self.written(result, mark)
        if name in _PRODUCTS and self._mark(result) is not None:
            self._products[result] = True
        return result

    def _reshaped(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An input or the result of a matrix product in other axes: part of the product, and no read of memory."""
        mark = self._mark(args[0])
        result = func(*args, **kwargs)
        if mark is not None:
            self._unrounded[result] = mark
        return result

    def _mark(self, tensor: Tensor) -> Mark | None:
        mark: Mark | None = self._unrounded.get(tensor)  # type: ignore[no-untyped-call]
        return mark

    def written(self, tree: Any, mark: Mark = "result") -> None:
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

    def read(self, tree: Any, marks: tuple[Mark, ...] | None = None) -> None:
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


@contextlib.contextmanager
def nothing_rounded() -> Iterator[None]:
    """What a ``with`` block computes lies in no memory in half precision, e.g. operands that are integers there."""
    modes = [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, RoundingMode) and mode.active]
    for mode in modes:
        mode.active = False
    try:
        yield
    finally:
        for mode in modes:
            mode.active = True


def _full_floats(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor) and leaf.dtype in FULL_PRECISION]


def _merges_rows(tensor: Tensor, shape: Sequence[int]) -> bool:
    """Whether all axes but the last become one, as in front of a matrix product."""
    return tensor.dim() > len(shape) == 2 and shape[-1] == tensor.shape[-1]


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
