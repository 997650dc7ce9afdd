"""Sweeps in other processes: the same study as in one, also with a stop, and clear words where work is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

import sensitivity as sv
from sensitivity.contracts import Batch
from sensitivity.errors import ExecutorError
from tests.sweep.mean_task import Chain, MeanTask
from tests.sweep.storage.stored_sweeps import known


@pytest.fixture
def wrapped() -> sv.Wrapped:
    return sv.wrap(Chain().eval(), MeanTask(1).inputs)


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


def analyze(wrapped: sv.Wrapped, task: MeanTask, **settings: Any) -> sv.Study:
    return wrapped.analyze(task, [sv.INT8, sv.INT4_WEIGHTS], progress=False, **settings)


class DyingTask(MeanTask):
    """Kills the process that it runs in, unless that is this one."""

    home = os.getpid()

    def __init__(self, images: int) -> None:
        super().__init__(images)
        self.home = os.getpid()

    def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
        if os.getpid() != self.home and 8 in batch.images:
            os._exit(9)
        return super().predict(model, batch)


class Backwards(Executor):
    """Runs what it is given when the last result is asked for, the last call first."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.calls = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        self.waiting.append((future, fn, args))
        self.calls += 1
        if len(self.waiting) == 3 or self.calls > 12:
            while self.waiting:
                done, function, arguments = self.waiting.pop()
                done.set_result(function(*arguments))
        return future


@pytest.mark.slow
def test_many_processes_give_the_study_of_one(wrapped: sv.Wrapped, processes: Executor) -> None:
    wrapped.calibrate(MeanTask(8))
    assert known(analyze(wrapped, MeanTask(40), executor=processes)) == known(analyze(wrapped, MeanTask(40)))


@pytest.mark.slow
def test_many_processes_stop_where_one_would(wrapped: sv.Wrapped, processes: Executor) -> None:
    wrapped.calibrate(MeanTask(8))
    stop = sv.Confidence(tolerance=1e-2, minimum_images=32)
    expected = known(analyze(wrapped, MeanTask(200), stop=stop))
    assert known(analyze(wrapped, MeanTask(200), stop=stop, executor=processes)) == expected


@pytest.mark.slow
def test_a_store_filled_by_many_processes_is_continued_by_one(
    wrapped: sv.Wrapped, processes: Executor, tmp_path: Path
) -> None:
    wrapped.calibrate(MeanTask(8))
    expected = known(analyze(wrapped, MeanTask(40), executor=processes, store=tmp_path / "s.jsonl"))
    task = MeanTask(40)
    assert known(analyze(wrapped, task, store=tmp_path / "s.jsonl")) == expected
    assert task.passes == 1  # that the unperturbed model predicts the same


@pytest.mark.slow
def test_a_dead_worker_is_an_error_that_says_how_to_go_on(wrapped: sv.Wrapped, tmp_path: Path) -> None:
    wrapped.calibrate(MeanTask(8))
    store = tmp_path / "s.jsonl"
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor,
        pytest.raises(ExecutorError, match=r"a worker died .* run the same again"),
    ):
        analyze(wrapped, DyingTask(40), executor=executor, store=store)
    assert known(analyze(wrapped, MeanTask(40), store=store)) == known(analyze(wrapped, MeanTask(40)))


def test_threads_give_the_same_study(wrapped: sv.Wrapped) -> None:
    wrapped.calibrate(MeanTask(8))
    before = torch.get_rng_state()
    with ThreadPoolExecutor(3) as executor:
        rows = known(analyze(wrapped, MeanTask(40), executor=executor))
    assert rows == known(analyze(wrapped, MeanTask(40)))
    assert torch.equal(before, torch.get_rng_state())


def test_batches_are_taken_in_in_their_order_whichever_is_done_first(wrapped: sv.Wrapped, tmp_path: Path) -> None:
    wrapped.calibrate(MeanTask(8))
    executor = Backwards()
    rows = known(analyze(wrapped, MeanTask(60), executor=executor))
    assert executor.calls >= 15
    assert rows == known(analyze(wrapped, MeanTask(60)))


def test_what_cannot_be_sent_is_said(wrapped: sv.Wrapped) -> None:
    wrapped.calibrate(MeanTask(8))
    task = MeanTask(8)
    task.score = lambda predictions: {"mean": 0.0}  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as executor, pytest.raises(ExecutorError, match="lambdas as functions"):
        analyze(wrapped, task, executor=executor)


class Unsendable(MeanTask):
    """Its batches hold a function that has no name."""

    def batches(self, images: Any = None) -> Iterator[Batch]:
        for batch in super().batches(images):
            yield replace(batch, context=lambda: 1)


class Unreturnable(MeanTask):
    """So do its predictions."""

    def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
        return [lambda: 1 for _ in super().predict(model, batch)]


@pytest.mark.slow
@pytest.mark.parametrize("task", [Unsendable(8), Unreturnable(8)])
def test_a_batch_or_a_prediction_that_cannot_be_sent_is_said(
    wrapped: sv.Wrapped, processes: Executor, task: MeanTask
) -> None:
    with pytest.raises(ExecutorError, match=r"a batch, or what the task predicts for it, cannot be sent .*lambda"):
        wrapped.analyze(task, sv.INT4_WEIGHTS, executor=processes, progress=False)


class Confused(MeanTask):
    """Fails with an error of the kinds that pickling gives."""

    def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
        raise TypeError("no such box")


@pytest.mark.slow
def test_an_error_of_the_task_itself_comes_through(wrapped: sv.Wrapped, processes: Executor) -> None:
    with pytest.raises(TypeError, match="no such box"):
        wrapped.analyze(Confused(8), sv.INT4_WEIGHTS, executor=processes, progress=False)


class TwoPartsError(Exception):
    """An error that is pickled and cannot be made again of what it was pickled to."""

    def __init__(self, subject: str, why: str) -> None:
        super().__init__(f"{subject}: {why}")


class Awkward(MeanTask):
    def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
        raise TwoPartsError("boxes", "none left")


@pytest.mark.slow
def test_an_error_that_cannot_be_sent_back_is_told_as_text(wrapped: sv.Wrapped, processes: Executor) -> None:
    with pytest.raises(ExecutorError, match="a worker failed with TwoPartsError: boxes: none left"):
        wrapped.analyze(Awkward(8), sv.INT4_WEIGHTS, executor=processes, progress=False)


@pytest.mark.slow
def test_a_store_is_free_again_while_forked_workers_live(wrapped: sv.Wrapped, tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as executor:
        for _ in range(2):
            wrapped.analyze(MeanTask(8), sv.INT4_WEIGHTS, executor=executor, store=tmp_path / "s.jsonl", progress=False)


def test_a_layer_that_fails_in_a_worker_is_a_row_with_its_reason(wrapped: sv.Wrapped) -> None:
    with ThreadPoolExecutor(1) as executor:
        study = wrapped.analyze(PickyTask(20), sv.INT4_WEIGHTS, executor=executor, progress=False)
    assert [measurement.status for measurement in study.measurements] == ["measured", "failed", "measured", "measured"]
    assert study.measurements[1].reason == "ValueError: out of luck"
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="out of luck"):
        wrapped.analyze(PickyTask(20), sv.INT4_WEIGHTS, executor=executor, progress=False, on_error="raise")


class PickyTask(MeanTask):
    """Fails where the second layer has few different weights."""

    def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
        if len(model.body[1].weight.unique()) < 200:  # type: ignore[attr-defined]
            raise ValueError("out of luck")
        return super().predict(model, batch)
