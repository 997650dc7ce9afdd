"""Every module call, and every torch function that chosen modules call in their own bodies, through one handler."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Set
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from sensitivity.errors import ModelError
from sensitivity.interception import Original, calls_handled

OUTSIDE = 0
"""Stands for the body around all modules: what a task does before and after it calls the model. It is never watched."""


class Watching(TorchFunctionMode):
    """Base of what runs a pass: sees every module call, and torch functions in the bodies of watched modules.

    A function mode and not a dispatch mode: it sees ``F.interpolate`` once and not each operator below, costs 1 us a
    function instead of 7, and is truly off in bodies that are not watched. That matters beyond time: some of torch's
    own modules compute other bits while a mode is on (attention leaves its fast path).

    Args:
        known: ``id`` of the model's modules.
        watched: ``id`` of those whose bodies' torch functions are seen.
    """

    def __init__(self, known: Set[int], watched: Set[int]) -> None:
        super().__init__()
        self.known = known
        self.watched = watched
        self.on = False
        self._elsewhere = False  # whether a module of the model ran in another thread

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
        """Passes inside go through this handler.

        Raises:
            ModelError: If the model calls its modules in other threads, whose calls are not seen.
        """
        with calls_handled(self._handle, elsewhere=self._note_elsewhere):
            yield
        if self._elsewhere:
            raise ModelError("the model calls modules of its own in other threads, where replay does not see them.")

    def _note_elsewhere(self, module: nn.Module) -> None:
        self._elsewhere |= id(module) in self.known

    def _handle(self, original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.on or not self._on_top():
            return self.call(original, module, args, kwargs)
        self._switch(False)
        try:
            return self.call(original, module, args, kwargs)
        finally:
            self._switch(True)

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


def context() -> tuple[Any, ...]:
    """What else decides what a function computes from the same arguments: whether for gradients, and autocast."""
    casts = [torch.get_autocast_dtype(device) for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
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
