"""Ctrl-C at any moment leaves nothing behind; ``test_interrupts.py`` runs this in a process of its own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.state.interrupts import deferred_interrupts
from sensitivity.perturb.state.state import ModelState
from sensitivity.wrapped import simulating

INTERRUPTS = 500 if "SENSITIVITY_SOAK" in os.environ else 60


@pytest.fixture
def _python_handles_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_python_handles_ctrl_c")
def test_an_interrupt_outside_restoration_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_python_handles_ctrl_c")
def test_interrupts_at_random_moments_leave_nothing_behind() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).train()
    images = torch.randn(4, 3, 8, 8)
    wrapped = sv.wrap(model, images[:1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    call, draw = nn.Module.__call__, random.Random(0)
    started = time.perf_counter()
    wrapped.analyze(sv.FeatureFidelity(images), sv.INT8_WEIGHTS)
    whole = time.perf_counter() - started
    raised = 0
    for _ in range(INTERRUPTS):
        timer = threading.Timer(draw.uniform(0, whole), os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            wrapped.analyze(sv.FeatureFidelity(images), sv.INT8_WEIGHTS)
        except KeyboardInterrupt:
            raised += 1
        raised += came_late(timer)
        assert all(module.training for module in model.modules())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert nn.Module.__call__ is call
        assert torch.is_grad_enabled()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert raised > INTERRUPTS / 10


def came_late(timer: threading.Timer) -> int:
    """How many interrupts come while a timer ends: on a busy machine one may take a while to arrive."""
    late = 0
    while True:
        try:
            timer.join()
            time.sleep(0.2)
        except KeyboardInterrupt:
            late += 1
        else:
            return late


@pytest.mark.usefixtures("_python_handles_ctrl_c")
def test_an_interrupt_while_a_block_of_another_room_is_entered_waits_until_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.randn(2, 3, 8, 8)
    wrapped = sv.wrap(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), images[:1])
    simulated, entered = simulating.simulated, list[bool]()

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        entered.append(True)
        return simulated(*arguments)

    monkeypatch.setattr(simulating, "simulated", interrupted)
    with pytest.raises(KeyboardInterrupt), leave_here(), untouched(wrapped.model), contextlib.ExitStack() as stack:
        stack.enter_context(wrapped.quantized(sv.Scheme.all(sv.INT8_WEIGHTS)))
    assert entered


@pytest.mark.usefixtures("_python_handles_ctrl_c")
def test_an_interrupt_during_restoration_is_raised_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Conv2d(1, 1, 1).train()
    restore = ModelState.restore

    def interrupted(state: ModelState) -> list[str]:
        signal.raise_signal(signal.SIGINT)
        return restore(state)

    monkeypatch.setattr(ModelState, "restore", interrupted)
    with pytest.raises(KeyboardInterrupt), leave_here(), untouched(model):
        assert not model.training
    assert model.training


@contextlib.contextmanager
def leave_here() -> Iterator[None]:
    """Wait for the interrupt that is tried again, so that it is raised inside this block."""
    yield
    time.sleep(0.5)
