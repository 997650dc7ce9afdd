"""Every module call, and every torch function that chosen modules call in their own bodies, through one handler."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Set
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

OUTSIDE = 0
"""Stands for the body around all modules: what a task does before and after it calls the model. It is never watched."""

Original = Callable[..., Any]


class Watching(TorchFunctionMode):
    """Base of what runs a pass: sees every module call, and torch functions in the bodies of watched modules.

    A function mode and not a dispatch mode: it sees ``F.interpolate`` once and not each operator below, costs 1 us a
    function instead of 7, and is truly off in bodies that are not watched. That matters beyond time: some of torch's
    own modules compute other bits while a mode is on (attention leaves its fast path).

    Args:
        watched: ``id`` of modules.
    """

    def __init__(self, watched: Set[int]) -> None:
        super().__init__()
        self.watched = watched
        self.on = False

    def call(self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Handle a module call; ``run`` runs it."""
        raise NotImplementedError

    def operate(self, function: Original, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Handle a call of a torch function in a watched body."""
        raise NotImplementedError

    def run(self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module; its body is watched or not, as it should be."""
        if self.on or id(module) not in self.watched:
            return original(module, *args, **kwargs)
        self._switch(True)
        try:
            return original(module, *args, **kwargs)
        finally:
            self._switch(False)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Passes inside go through this handler."""
        handler = self.call
        previous = nn.Module._call_impl

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            """Stands in for the call of every module."""
            if not self.on or not self._on_top():
                return handler(previous, module, args, kwargs)
            self._switch(False)
            try:
                return handler(previous, module, args, kwargs)
            finally:
                self._switch(True)

        # what nn.Module.__call__ calls: exchanging that one itself costs five times as much, 0.15 ms a time
        nn.Module._call_impl = call  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module._call_impl = previous  # type: ignore[method-assign]

    def _on_top(self) -> bool:
        """Whether this mode is the innermost: another one that the model entered must not be left in its place."""
        return _get_current_function_mode() is self  # type: ignore[no-untyped-call]

    def _switch(self, on: bool) -> None:
        self.on = on
        if on:
            self.__enter__()  # type: ignore[no-untyped-call]
        elif self._on_top():  # an interrupt may have come right after it was left
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Original, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls instead of a function while the mode is on."""
        return self.operate(func, args, kwargs or {})


@contextlib.contextmanager
def parameters_read(tell: Callable[[nn.Module], None]) -> Iterator[None]:
    """Tell of every module one of whose parameters is looked up as an attribute, by whomever.

    A layer is disturbed by putting another parameter in the place of its own; who holds the parameter itself, and does
    not look it up, is not disturbed.
    """
    previous, previous_members = nn.Module.__getattr__, nn.Module._named_members

    def members(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Stands in for what lists the parameters of a module and of all that it contains."""
        for owner in module.modules():
            tell(owner)
        return previous_members(module, *args, **kwargs)

    def look_up(module: nn.Module, name: str) -> Any:
        """Stands in for the look-up of a parameter."""
        if name in module.__dict__.get("_parameters", ()):
            tell(module)
        return previous(module, name)

    nn.Module.__getattr__, nn.Module._named_members = look_up, members  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__getattr__, nn.Module._named_members = previous, previous_members  # type: ignore[method-assign]


def context() -> tuple[Any, ...]:
    """What else decides what a function computes from the same arguments: whether for gradients, and autocast."""
    casts = [torch.get_autocast_dtype(one) for one in ("cpu", "cuda") if torch.is_autocast_enabled(one)]
    return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), *map(str, casts)


def is_property(function: Original) -> bool:
    """Whether a "function" is a look at ``shape``, ``dtype`` or another property."""
    return getattr(function, "__name__", "") == "__get__"


def watchable(model: nn.Module) -> set[int]:
    """Bodies that may be watched at all: with modules of their own to call, and not written by torch.

    A body that calls no module holds no cut worth more than its module. Those of torch itself either have nothing
    between their modules (``Sequential``) or look whether a mode is on and take another path.
    """
    return {id(m) for m in model.modules() if not _by_torch(m) and next(m.children(), None) is not None}


def all_but_attention(model: nn.Module) -> set[int]:
    """Every body but those that compute other bits while a mode is on."""
    fast = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)
    return {id(m) for m in model.modules() if not isinstance(m, fast)}


def forward_of(module: nn.Module) -> Any:
    """The function that runs a module's body: of its class, unless the module has one of its own."""
    return vars(module).get("forward") or inspect.getattr_static(type(module), "forward", None)


def _by_torch(module: nn.Module) -> bool:
    return str(getattr(forward_of(module), "__module__", "")).startswith("torch.")
