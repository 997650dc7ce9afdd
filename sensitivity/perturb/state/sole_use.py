"""One thread at a time measures a model, and none while it is perturbed; all threads share the random generators."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from sensitivity.errors import ModelInUseError
from sensitivity.layers.trace.generators import RandomState


@dataclass(eq=False)
class _Use:
    """One thread that measures a model, or perturbs it."""

    thread: threading.Thread
    model: nn.Module
    modules: frozenset[int]  # by id: alive as long as the model is
    perturbs: bool = False


@dataclass(eq=False)
class _Draw:
    """A ``with`` block that may draw random numbers, and the states that were there before."""

    thread: int
    state: RandomState | None = None


_lock = threading.Lock()
_uses: list[_Use] = []
_draws: list[_Draw] = []


@contextlib.contextmanager
def sole_use(model: nn.Module) -> Iterator[None]:
    """No other thread may measure this model, or one that shares modules with it, for the time of a ``with`` block.

    The same thread may enter several of them, but none while the model is perturbed: what is measured then would be
    taken for the model's own.

    Raises:
        ModelInUseError: If another thread measures it already, or it is perturbed now.
    """
    use = _use_of(model)
    with _listed(use, lambda other: other.perturbs or other.thread is not use.thread):
        yield


@contextlib.contextmanager
def perturbed(model: nn.Module) -> Iterator[None]:
    """Nothing may measure this model, or one that shares modules with it, for the time of a ``with`` block."""
    with _listed(replace(_use_of(model), perturbs=True), lambda _: False):
        yield


def _use_of(model: nn.Module) -> _Use:
    """This thread's use of a model; its modules are known where it is within another one."""
    thread = threading.current_thread()
    around = next((known for known in _uses if known.thread is thread and known.model is model), None)
    return _Use(thread, model, around.modules if around is not None else frozenset(map(id, model.modules())))


@contextlib.contextmanager
def _listed(use: _Use, excludes: Callable[[_Use], bool]) -> Iterator[None]:
    """One of the uses for the time of a ``with`` block.

    Raises:
        ModelInUseError: If one of those that it excludes shares modules with it.
    """
    try:
        with _lock:
            other = next((known for known in _uses if excludes(known) and known.modules & use.modules), None)
            if other is None:
                _uses.append(use)
        if other is not None:
            raise ModelInUseError(_why_in_use(use, other))
        yield
    finally:
        with _lock:
            if use in _uses:
                _uses.remove(use)


def _why_in_use(use: _Use, other: _Use) -> str:
    name = type(use.model).__name__
    if other.thread is use.thread:
        return (
            f"{name} is perturbed now, by a `with wrapped.quantized(...)` block or a sweep around this call, which "
            "would take the perturbed network for the model itself. Leave that block first; inside it, call the model. "
            "wrapped.evaluate(task, scheme) scores a scheme, and scheme.quantize(pattern, recipe) puts two into one."
        )
    return (
        f"{name} is being measured in another thread ({other.thread.name}), and two measurements of one model would "
        "perturb each other. Wait until that one ends, or wrap a copy: sv.wrap(copy.deepcopy(model), ...)."
    )


@contextlib.contextmanager
def generators_kept(devices: Sequence[int]) -> Iterator[None]:
    """The random states of Python, numpy and torch are put back after a ``with`` block.

    A process has one generator for all its threads. Where several threads are inside, the last one that leaves puts
    back what the first one met.

    Args:
        devices: CUDA devices whose generators count too.
    """
    draw = _Draw(threading.get_ident())
    try:
        with _lock:
            first = next((other.state for other in _draws if other.thread != draw.thread), None)
            now = RandomState.now(devices)
            draw.state = now if first is None else replace(first, cuda={**now.cuda, **first.cuda})
            _draws.append(draw)
        yield
    finally:
        with _lock:
            if draw in _draws:
                _draws.remove(draw)
            if draw.state is not None and all(other.thread == draw.thread for other in _draws):
                draw.state.set()


def random_state_before() -> RandomState:
    """The state of the generators that the innermost block of this thread will put back, or the present one."""
    with _lock:
        own = [draw.state for draw in _draws if draw.thread == threading.get_ident()]
    return (own[-1] if own else None) or RandomState.now()


def _after_fork() -> None:
    """Forget the other threads: in a forked process only the one that forked goes on."""
    global _lock
    _lock = threading.Lock()
    _uses[:] = [use for use in _uses if use.thread is threading.current_thread()]
    _draws[:] = [draw for draw in _draws if draw.thread == threading.get_ident()]


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)
