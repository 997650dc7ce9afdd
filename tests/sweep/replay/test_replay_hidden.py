"""Modules that use another module without owning it: nothing that is passed in or out shows it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sensitivity as sv
from tests.sweep.recording_task import RecordingTask

BATCHES = 12
LARGEST = threading.local()  # written in C: what it holds is not seen
LARGEST.value = 1.0
"""Global, so that nobody can see which modules use it."""


class Runs(nn.Module):
    """Runs a convolution that it did not register."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.borrowed = [conv]

    def forward(self, x: Tensor) -> Tensor:
        return self.borrowed[0](x) * self.scale


class Reads(nn.Module):
    """Reads the weight of a convolution that it did not register."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))
        self.borrowed = [conv]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.borrowed[0].weight, self.bias, padding=1)


class Borrowing(nn.Module):
    """A chain in whose middle a convolution is used by its owner, and by a stranger beside it."""

    def __init__(self, stranger: Callable[[nn.Conv2d], nn.Module], before: int, *, first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pre = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(before))
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.stranger = stranger(self.shared)
        self.post = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.pre:
            x = conv(x)
        y = self.stranger(x) + self.shared(x) if self.first else self.shared(x) + self.stranger(x)
        for conv in self.post:
            y = conv(y).relu() + y
        return y


class Remembers(nn.Module):
    """What the model notes of one layer, the second, a module reads: no rule sees it, only a check of that layer."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.skip = nn.Conv2d(3, 3, 1)
        self.noted = nn.Conv2d(3, 3, 3, padding=1)
        self.post = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(depth))
        self.scale = _Scale()

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(x)
        LARGEST.value = float(self.noted(x).abs().max())
        x = x + self.scale(skip)
        for conv in self.post:
            x = conv(x).relu() + x
        return x


class _Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * LARGEST.value


def inputs(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, 12, 12, generator=generator) for _ in range(count)]


def scores(study: sv.Study) -> Sequence[Any]:
    return [study.baseline.value, *(row.score for row in study.measurements)]


def sweep(model: nn.Module, batches: int, **settings: Any) -> sv.Study:
    data = inputs(batches)
    task = RecordingTask(data)
    return sv.wrap(model.eval(), data[0]).analyze(task, sv.INT4_WEIGHTS, progress=False, **settings)


@pytest.mark.parametrize("first", [False, True], ids=["owner first", "stranger first"])
@pytest.mark.parametrize("before", range(4, 9))
@pytest.mark.parametrize("stranger", [Runs, Reads])
def test_who_uses_a_perturbed_layer_without_owning_it_is_run_again(
    stranger: type[nn.Module], before: int, first: bool
) -> None:
    model = Borrowing(stranger, before, first=first)
    study = sweep(model, 1)
    assert scores(study) == scores(sweep(model, 1, replay=False))
    assert not study.notes


@pytest.mark.parametrize("depth", [7, 10, 13])
def test_what_no_rule_sees_is_found_by_a_check_on_a_later_batch_and_all_is_run_again(depth: int) -> None:
    model = Remembers(depth)
    study = sweep(model, BATCHES)
    assert scores(study) == scores(sweep(model, BATCHES, replay=False))
    assert study.notes == (
        "not replayed, every pass run in full: a replayed pass of noted:0:0 differs from a full one. That was found on "
        "a later batch, and what had been replayed before was measured again",
    )


def test_what_a_late_check_threw_away_stays_away_when_resumed(tmp_path: Path) -> None:
    model, store = Remembers(8), tmp_path / "s.jsonl"
    study = sweep(model, BATCHES, store=store)
    again = sweep(model, BATCHES, store=store)
    assert scores(study) == scores(again) == scores(sweep(model, BATCHES, replay=False))
    assert study.notes == again.notes


@pytest.mark.parametrize("stop", range(40, 150, 15))
def test_a_sweep_that_is_stopped_before_or_after_a_late_check_ends_as_one_that_ran_in_full(
    stop: int, tmp_path: Path
) -> None:
    data = inputs(BATCHES)
    wrapped = sv.wrap(Remembers(8).eval(), data[0])
    runs = []

    def interrupt(outputs: list[Any]) -> bool:
        runs.append(1)
        if len(runs) == stop:
            raise KeyboardInterrupt
        return False

    task = RecordingTask(data)
    task.fail_on = interrupt
    with contextlib.suppress(KeyboardInterrupt):  # before the first batch of the second attempt was complete
        wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False, store=tmp_path / "s.jsonl")
    for _ in range(2):
        study = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False, store=tmp_path / "s.jsonl")
    full = wrapped.analyze(RecordingTask(data), sv.INT4_WEIGHTS, progress=False, replay=False)
    assert len(runs) > stop
    assert scores(study) == scores(full)
    assert all(row.images == BATCHES for row in study.measurements)


def test_a_late_check_in_a_worker_is_heeded() -> None:
    model = Remembers(8)
    wrapped, task = sv.wrap(model.eval(), inputs(1)[0]), sv.FeatureFidelity(torch.cat(inputs(BATCHES)), batch_size=1)
    with ThreadPoolExecutor(1) as executor:
        study = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False, executor=executor)
    assert "differs from a full one" in study.notes[0]
    assert scores(study) == scores(wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False, replay=False))
