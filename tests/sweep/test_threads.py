"""Sweeps in two threads: right on two models, refused on one, and nothing of the process stays changed."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import ModelInUseError
from sensitivity.sweep.passes.forward import FEWEST_REPLAYED
from tests.sweep.mean_task import MeanTask

PAIRS = 50 if "SENSITIVITY_SOAK" in os.environ else 10


class Net(nn.Module):
    """Convolutions with attention between them; draws random numbers, if asked."""

    def __init__(self, *, noisy: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)
        self.noisy = noisy

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        if self.noisy:
            tokens = tokens + torch.randn_like(tokens) / 8
        return self.head(tokens.mean(1))


class PooledTask(MeanTask):
    """The mean of all that the model returns."""

    def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
        return [float(row.mean()) for row in model(*batch.inputs)]


def made(seed: int, *, noisy: bool = False) -> sv.Wrapped:
    torch.manual_seed(seed)
    return sv.wrap(Net(noisy=noisy).eval(), torch.randn(2, 3, 6, 6))


def rows(study: sv.Study) -> list[tuple[Any, ...]]:
    return [(row.layer, row.score, row.drop, row.status, row.reason) for row in study.measurements] + [study.notes]


def analyzed(wrapped: sv.Wrapped) -> list[tuple[Any, ...]]:
    return rows(wrapped.analyze(PooledTask(6, batch_size=2), sv.INT4_WEIGHTS, progress=False))


def patched() -> tuple[object, ...]:
    switches = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.math_sdp_enabled()
    members = nn.Module.__call__, nn.Module._call_impl, nn.Module.__getattr__, nn.Module._named_members
    return (*members, *switches, torch.get_rng_state().numpy().tobytes())


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """What functions return, or raise, that start at the same moment in threads of their own."""
    barrier, results = threading.Barrier(len(acts)), [None] * len(acts)

    def run(place: int) -> None:
        barrier.wait()
        try:
            results[place] = acts[place]()
        except Exception as error:  # noqa: BLE001 - the test compares it
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "one draws random numbers"])
def test_sweeps_of_two_models_in_two_threads_are_those_of_one_thread_and_leave_nothing(noisy: bool) -> None:
    left, right = made(0), made(1, noisy=noisy)
    torch.manual_seed(2)
    expected = [analyzed(left), analyzed(right)]
    before = patched()
    for _ in range(PAIRS):
        assert at_once(lambda: analyzed(left), lambda: analyzed(right)) == expected
        assert patched() == before


def test_half_precision_in_one_thread_does_not_change_a_sweep_in_another() -> None:
    left, right = made(0), made(1)
    torch.manual_seed(2)
    scheme = sv.Scheme().with_rest("bf16")
    task = PooledTask(6, batch_size=2)
    expected = [left.evaluate(task, scheme).value, analyzed(right)]
    before = patched()
    for _ in range(PAIRS // 2):
        assert at_once(lambda: left.evaluate(task, scheme).value, lambda: analyzed(right)) == expected
        assert patched() == before


class MeetingTask(PooledTask):
    """Says when a first pass runs, and goes on when it may."""

    def __init__(self) -> None:
        super().__init__(6)
        self.running, self.go_on = threading.Event(), threading.Event()

    def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
        self.running.set()
        assert self.go_on.wait(60)
        return super().predict(model, batch)


@pytest.mark.parametrize("second", ["analyze", "evaluate", "calibrate", "signals", "explain"])
def test_a_model_that_another_thread_measures_is_refused_by_name(second: str) -> None:
    wrapped, task = made(0), MeetingTask()
    images = [torch.randn(2, 3, 6, 6)]  # made before: numbers drawn while a pass runs look like the model's own
    other = sv.wrap(wrapped.model, images[0])
    own = copy.deepcopy(wrapped.model.state_dict())
    first: list[sv.Study] = []
    thread = threading.Thread(
        target=lambda: first.append(wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)), name="the first one"
    )
    thread.start()
    try:
        assert task.running.wait(60)
        acts: dict[str, Callable[[], object]] = {
            "analyze": lambda: analyzed(other),
            "evaluate": lambda: wrapped.evaluate(PooledTask(6)),
            "calibrate": lambda: wrapped.calibrate(images, sv.INT8),
            "signals": lambda: wrapped.signals(images, sv.INT4_WEIGHTS),
            "explain": lambda: wrapped.explain(PooledTask(6), sv.INT4_WEIGHTS),
        }
        with pytest.raises(ModelInUseError, match=r"Net is being measured in another thread \(the first one\)"):
            acts[second]()
    finally:
        task.go_on.set()
        thread.join()
    assert rows(first[0]) == analyzed(wrapped), "the first sweep is not harmed, and the model is free again"
    assert all(torch.equal(tensor, own[name]) for name, tensor in wrapped.model.state_dict().items())


class Threaded(nn.Module):
    """Runs one of its layers in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.side = nn.Conv2d(3, 4, 3)
        self.on = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return self.stem(x) + self.side(x)
        results: list[Tensor] = []

        def run() -> None:
            with torch.no_grad():
                results.append(self.side(x))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return self.stem(x) + results[0]


def test_a_model_that_calls_its_layers_in_threads_is_run_in_full() -> None:
    torch.manual_seed(0)
    model = Threaded().eval()
    wrapped, task = sv.wrap(model, torch.randn(2, 3, 6, 6)), PooledTask(2 * FEWEST_REPLAYED, batch_size=4)
    expected = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    model.on = True
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    assert [row.score for row in study.measurements] == [row.score for row in expected.measurements]
    assert "other threads" in study.notes[0]
