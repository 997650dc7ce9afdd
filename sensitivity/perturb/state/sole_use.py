"""One thread at a time measures a model; models of different threads share the generators of random numbers."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from sensitivity.errors import ModelInUseError
from sensitivity.layers.trace.generators import RandomState


@dataclass(eq=False)
class _Use:
    """One thread that measures a model."""

    thread: threading.Thread
    model: nn.Module
    modules: frozenset[int]  # by id: alive as long as the model is


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

    The same thread may enter several of them.

    Raises:
        ModelInUseError: If another thread measures it already.
    """
    thread = threading.current_thread()
    around = next((known for known in _uses if known.thread is thread and known.model is model), None)
    use = _Use(thread, model, around.modules if around is not None else frozenset(map(id, model.modules())))
    try:
        with _lock:
            other = next(
                (known for known in _uses if known.thread is not use.thread and known.modules & use.modules), None
            )
            if other is None:
                _uses.append(use)
        if other is not None:
            name = type(model).__name__
            raise ModelInUseError(
                f"{name} is being measured in another thread ({other.thread.name}), and two measurements of one model "
                f"would perturb each other. Wait until that one ends, or wrap a copy: sv.wrap(copy.deepcopy(model), "
                "...)."
            )
        yield
    finally:
        with _lock:
            if use in _uses:
                _uses.remove(use)


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
