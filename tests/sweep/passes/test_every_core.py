"""Sweeps on every core by themselves: the study of one thread, whatever becomes of the workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sensitivity as sv
from sensitivity.sweep.passes import cores, every_core, forked
from tests.sweep.mean_task import Chain, MeanTask
from tests.sweep.passes.noted_sweeps import Noted, analyze, expected
from tests.sweep.storage.stored_sweeps import known

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="workers are forked on Linux alone")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of two cores, on which no sweep is too short for workers."""
    before = torch.get_num_threads()
    monkeypatch.setattr(every_core, "usable_cores", lambda: 2)
    monkeypatch.setattr(forked, "WORTH_S", 0.0)
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "a sweep gives torch its threads back"
    assert not multiprocessing.active_children()
    torch.set_num_threads(before)


class NotedTask(Noted):
    """Writes down where it predicts, and does ``act`` in all processes but the first one."""

    def __init__(self, images: int, notes: Path, act: Callable[[Any], Any] = lambda predictions: predictions) -> None:
        super().__init__(images, notes)
        self.home, self.act = os.getpid(), act

    def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
        self.note()
        predictions = super().predict(model, batch)
        return predictions if os.getpid() == self.home else self.act(predictions)


@pytest.mark.parametrize("images", [4, 40])
def test_the_study_is_that_of_one_thread_and_other_processes_made_it(tmp_path: Path, images: int) -> None:
    task = NotedTask(images, tmp_path / "notes")
    assert known(analyze(task)) == expected(images)
    processes, threads = task.noted()
    assert len(processes) > 1
    assert threads == {"1"}


def test_workers_are_the_default(tmp_path: Path) -> None:
    task = NotedTask(40, tmp_path / "notes")
    sv.wrap(Chain().eval(), MeanTask(1).inputs).analyze(task, sv.INT4_WEIGHTS, progress=False)
    assert len(task.noted()[0]) > 1


def test_a_stop_and_a_store_are_those_of_one_process(tmp_path: Path) -> None:
    stop = sv.Confidence(tolerance=1.0, minimum_images=32)
    task = NotedTask(200, tmp_path / "notes")
    study = analyze(task, stop=stop, store=tmp_path / "auto.jsonl")
    assert len(task.noted()[0]) > 1
    assert known(study) == expected(200, stop=stop)
    assert known(analyze(MeanTask(200), stop=stop, store=tmp_path / "auto.jsonl")) == known(study)


def die(predictions: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    return predictions


def hang(predictions: Any) -> Any:
    time.sleep(60)
    return predictions


def unsendable(predictions: list[Any]) -> list[Any]:
    return [lambda: 1 for _ in predictions]


@pytest.mark.parametrize("act", [die, hang, unsendable])
@pytest.mark.parametrize("images", [4, 24])
def test_what_workers_do_not_answer_is_run_here(
    tmp_path: Path, act: Callable[[Any], Any], images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "PATIENCE_S", 0.3)
    monkeypatch.setattr(forked, "SLOWER_THERE", 1.0)
    task = NotedTask(images, tmp_path / "notes", act)
    assert known(analyze(task)) == expected(images)
    assert len(task.noted()[0]) > 1, "workers were tried"


def test_an_error_of_the_task_is_raised_as_in_one_process(tmp_path: Path) -> None:
    def fail(predictions: Any) -> Any:
        raise ValueError("in a worker")

    with pytest.raises(ValueError, match="in a worker"):
        analyze(NotedTask(24, tmp_path / "notes", fail), on_error="raise")


@pytest.mark.parametrize("images", [1, 4])
def test_a_sweep_of_fewer_passes_than_fill_the_cores_keeps_threads_and_process(tmp_path: Path, images: int) -> None:
    wrapped = sv.wrap(Chain().eval(), MeanTask(1).inputs)
    task = NotedTask(images, tmp_path / "notes")
    wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    assert task.noted() == ({str(os.getpid())}, {"2"})


def test_threads_that_were_set_to_one_ask_for_one_process(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    task = NotedTask(40, tmp_path / "notes")
    analyze(task)
    torch.set_num_threads(2)
    assert task.noted() == ({str(os.getpid())}, {"1"})


def test_a_callback_runs_in_the_process_that_made_it() -> None:
    calls: list[tuple[int, int]] = []

    def metric(model: Any) -> float:
        calls.append((os.getpid(), torch.get_num_threads()))
        return float(model(MeanTask(8).inputs).mean())

    analyze(sv.callback_task(metric))
    assert len(calls) > 8
    assert set(calls) == {(os.getpid(), 2)}


class BitsOfThreads(MeanTask):
    """Predicts something else with another number of threads, as large networks do in their last bits."""

    def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
        return [prediction + 1e-9 * torch.get_num_threads() for prediction in super().predict(model, batch)]


def test_a_store_begun_with_threads_within_a_pass_is_continued_with_them(tmp_path: Path) -> None:
    begun = analyze(BitsOfThreads(12), None, store=tmp_path / "s.jsonl", layers=["stem:0:0", "body:0:0"])
    assert len(begun.measurements) == 4
    study = analyze(BitsOfThreads(12), store=tmp_path / "s.jsonl")
    assert known(study) == known(analyze(BitsOfThreads(12), None))
    assert study.baseline.value != analyze(BitsOfThreads(12)).baseline.value


def test_a_container_is_given_no_more_processes_than_its_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for text, count in {"max 100000\n": 64, "150000 100000\n": 2, "": 64}.items():
        (tmp_path / "cpu.max").write_text(text)
        monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
        assert cores.usable_cores() == count


def test_processes_fit_into_half_of_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    8388608 kB\n")
    monkeypatch.setattr(cores, "_MEMORY", tmp_path / "meminfo")
    assert [cores.processes_that_fit(size * 2**30) for size in (1, 1.5, 100)] == [4, 2, 1]
    monkeypatch.setattr(cores, "_MEMORY", tmp_path / "absent")
    assert cores.processes_that_fit(2**40) >= 1000
