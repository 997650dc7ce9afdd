"""One thread at a time measures a model; models of different threads share torch's random generators."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sensitivity.errors import ModelInUseError


@dataclass(eq=False)
class _Use:
    """One thread that measures a model."""

    thread: threading.Thread
    modules: frozenset[int]  # by id: alive as long as the model is


@dataclass(eq=False)
class _Draw:
    """A ``with`` block that may draw random numbers, and the states that were there before."""

    thread: int
    states: dict[int | None, Tensor] = field(default_factory=dict)  # by CUDA device; None is the CPU


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
    use = _Use(threading.current_thread(), frozenset(map(id, model.modules())))
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
    """The random states of torch are put back after a ``with`` block.

    A process has one generator for all its threads. Where several threads are inside, the last one that leaves puts
    back what the first one met.

    Args:
        devices: CUDA devices whose generators count too.
    """
    draw = _Draw(threading.get_ident())
    try:
        with _lock:
            first = next((one for one in _draws if one.thread != draw.thread), _Draw(0))
            draw.states = {device: first.states.get(device, _state_of(device)) for device in (None, *devices)}
            _draws.append(draw)
        yield
    finally:
        with _lock:
            if draw in _draws:
                _draws.remove(draw)
            if all(one.thread == draw.thread for one in _draws):
                for device, state in draw.states.items():
                    _put_back(device, state)


def random_state_before() -> Tensor:
    """The state of the CPU's generator that the innermost block of this thread will put back, or the present one."""
    with _lock:
        own = [draw for draw in _draws if draw.thread == threading.get_ident()]
        return own[-1].states[None] if own else torch.get_rng_state()


def _state_of(device: int | None) -> Tensor:
    return torch.get_rng_state() if device is None else torch.cuda.get_rng_state(device)


def _put_back(device: int | None, state: Tensor) -> None:
    if device is None:
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)


def _after_fork() -> None:
    """Forget the other threads: in a forked process only the one that forked goes on."""
    global _lock
    _lock = threading.Lock()
    _uses[:] = [use for use in _uses if use.thread is threading.current_thread()]
    _draws[:] = [draw for draw in _draws if draw.thread == threading.get_ident()]


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)
