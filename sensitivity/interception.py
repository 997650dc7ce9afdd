"""The only place that patches ``nn.Module``: calls and look-ups of one thread go through its handlers.

It lies on the ground floor and knows torch alone, because tracing (``layers``), half precision (``perturb``) and replay
(``sweep``) all need it, and those rooms may not import each other. A class is shared by all threads of a process, so a
patch is installed while any thread needs it, and it asks which handlers the calling thread has: a thread without any
gets the original. Handlers of one thread are nested, the innermost first.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

Original = Callable[..., Any]
Handler = Callable[[Original, nn.Module, tuple[Any, ...], dict[str, Any]], Any]
"""Handles a module call: gets what runs it, the module, and its arguments."""

Listener = Callable[[nn.Module], None]
"""Is told of a module."""


class _Patch:
    """One attribute of ``nn.Module`` that is replaced while somebody needs it.

    Attributes:
        original: What was there before; it stays known, because calls of other threads may still be on their way to it.
    """

    def __init__(self, name: str, replacement: Original) -> None:
        self.original: Original = getattr(nn.Module, name)
        self._name = name
        self._replacement = replacement
        self._users: dict[object, int] = {}  # with the thread of each

    def install(self, user: object) -> None:
        """Replace the attribute, if it is not replaced yet; call it with the lock held."""
        if not self._users:
            self.original = getattr(nn.Module, self._name)
        self._users[user] = threading.get_ident()
        setattr(nn.Module, self._name, self._replacement)

    def remove(self, user: object) -> None:
        """Put the original back, if nobody else needs the patch; call it with the lock held."""
        if self._users.pop(user, None) is not None and not self._users:
            setattr(nn.Module, self._name, self.original)

    def remove_other_threads(self) -> None:
        """In a forked process, where only the thread that forked goes on: forget the users of the others."""
        for user in [user for user, thread in self._users.items() if thread != threading.get_ident()]:
            self.remove(user)


class _Thread(threading.local):
    """The handlers of one thread.

    Attributes:
        call: Runs a module call through all of them; None where there are none.
        readers: Are told of every look-up of a parameter.
    """

    def __init__(self) -> None:
        self.call: Original | None = None
        self.readers: tuple[Listener, ...] = ()


_thread = _Thread()
_lock = threading.Lock()
_listeners: dict[object, Listener] = {}  # to calls of threads that have no handler


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    handled = _thread.call
    if handled is not None:
        return handled(module, *args, **kwargs)
    for listener in list(_listeners.values()):
        listener(module)
    return _CALL.original(module, *args, **kwargs)


def _run(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _CALL.original(module, *args, **kwargs)


def _look_up(module: nn.Module, name: str) -> Any:
    if _thread.readers and name in module.__dict__.get("_parameters", ()):
        _tell_readers(module)
    return _LOOK_UP.original(module, name)


def _members(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if _thread.readers:
        for owner in module.modules():
            _tell_readers(owner)
    return _MEMBERS.original(module, *args, **kwargs)


def _tell_readers(module: nn.Module) -> None:
    for reader in _thread.readers:
        reader(module)


# ``_call_impl`` is what nn.Module.__call__ calls: replacing that one itself costs five times as much, 0.15 ms a time
_CALL = _Patch("_call_impl", _call)
_LOOK_UP = _Patch("__getattr__", _look_up)
_MEMBERS = _Patch("_named_members", _members)


@contextlib.contextmanager
def calls_handled(handler: Handler, *, elsewhere: Listener | None = None) -> Iterator[None]:
    """Every module call of this thread goes through a handler for the time of a ``with`` block.

    Args:
        handler: Runs the call, or answers it without. What it gets to run it with leads to the handlers around it.
        elsewhere: Is told of modules that are called in threads without a handler, just before they run; what it raises
            is raised there.
    """
    user, around = object(), _thread.call
    run = around or _run

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return handler(run, module, args, kwargs)

    try:
        with _lock:
            if elsewhere is not None:
                _listeners[user] = elsewhere
            _CALL.install(user)
        _thread.call = call
        yield
    finally:
        _thread.call = around
        with _lock:
            _listeners.pop(user, None)
            _CALL.remove(user)


@contextlib.contextmanager
def parameters_read(reader: Listener) -> Iterator[None]:
    """Tell of every module one of whose parameters is looked up as an attribute in this thread, by whomever.

    A layer is perturbed by putting another parameter in the place of its own; who holds the parameter itself, and does
    not look it up, is not perturbed.
    """
    user, around = object(), _thread.readers
    try:
        with _lock:
            _LOOK_UP.install(user)
            _MEMBERS.install(user)
        _thread.readers = (*around, reader)
        yield
    finally:
        _thread.readers = around
        with _lock:
            _LOOK_UP.remove(user)
            _MEMBERS.remove(user)


@contextlib.contextmanager
def forward_exchanged(module: nn.Module, make: Callable[[Original], Original]) -> Iterator[None]:
    """Another ``forward`` for one module for the time of a ``with`` block.

    Args:
        module: The module.
        make: Gives the new function for the present one.
    """
    own = module.__dict__.get("forward")
    try:
        module.__dict__["forward"] = make(module.forward)
        yield
    finally:
        if own is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = own


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _listeners.clear()
    for patch in (_CALL, _LOOK_UP, _MEMBERS):
        patch.remove_other_threads()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)
