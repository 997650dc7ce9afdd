"""The same function of many things on all cores: what it finds is that of a loop, whatever becomes of the workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
import torch

import sensitivity as sv
from sensitivity.sweep.passes import every_core, forked
from sensitivity.sweep.passes.in_parallel import in_parallel
from tests.sweep.mean_task import MeanTask
from tests.sweep.passes.noted_sweeps import Noted, alone, analyze, expected
from tests.sweep.storage.stored_sweeps import known

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="workers are forked on Linux alone")

HOME = os.getpid()


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of two cores, on which nothing is too short for workers."""
    monkeypatch.setattr(forked, "WORTH_S", 0.0)
    monkeypatch.setattr(every_core, "usable_cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "torch has its threads back"
    assert not multiprocessing.active_children()
    torch.set_num_threads(before)


def with_process(item: int) -> tuple[int, int]:
    return item, os.getpid()


def test_answers_come_in_order_and_from_other_processes() -> None:
    answers = list(in_parallel(with_process, range(50), processes=2))
    assert [item for item, _ in answers] == list(range(50))
    assert answers[0] == (0, os.getpid()), "the first one shows what one takes"
    assert os.getpid() not in {pid for _, pid in answers[1:]}


@pytest.mark.parametrize(("items", "processes"), [(50, 1), (1, 2), (0, 2)])
def test_few_items_and_one_process_stay_here(items: int, processes: int) -> None:
    assert list(in_parallel(with_process, range(items), processes=processes)) == [(i, HOME) for i in range(items)]


def test_what_takes_no_time_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "WORTH_S", 0.5)
    assert {pid for _, pid in in_parallel(with_process, range(50), processes=2)} == {HOME}


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def hang() -> int:
    time.sleep(60)
    return 0


def fail() -> int:
    raise ValueError("in a worker alone")


def give_what_cannot_be_sent() -> Any:
    return lambda: 1


@pytest.mark.parametrize("act", [die, hang, fail, give_what_cannot_be_sent])
def test_what_a_worker_does_not_answer_is_found_here(act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "PATIENCE_S", 0.3)
    monkeypatch.setattr(forked, "SLOWER_THERE", 1.0)
    answers = in_parallel(lambda item: item if os.getpid() == HOME else act(), range(20), processes=2)
    assert list(answers) == list(range(20))


def test_an_error_is_that_of_a_call_here() -> None:
    def refuse_seven(item: int) -> int:
        if item == 7:
            raise KeyError("seven")
        return item

    with pytest.raises(KeyError, match="seven"):
        list(in_parallel(refuse_seven, range(20), processes=2))


class NotedScores(Noted):
    """Writes down where it scores."""

    def score(self, predictions: Any) -> dict[str, float]:
        self.note()
        return super().score(predictions)


STOP = sv.Confidence(tolerance=0.02, minimum_images=32)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("settings", [{}, {"stop": STOP}, {"intervals": False}])
def test_scores_and_bounds_are_those_of_one_process(tmp_path: Path, settings: dict[str, Any], *, stored: bool) -> None:
    store = {"store": tmp_path / "sweep.jsonl"} if stored else {}
    task = NotedScores(100, tmp_path / "notes")
    study = analyze(task, **settings, **store)
    processes, threads = task.noted()
    assert len(processes) > 1
    assert threads == {"1"}
    assert known(study) == expected(100, **settings)


class Dictionary:
    """A store that somebody wrote: whether copies of this process may read it is not known."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def read(self, key: str) -> Any:
        return self.values[key]

    def add(self, key: str, value: Any) -> None:
        self.values.setdefault(key, value)


def test_a_store_of_a_users_own_is_read_here_alone(tmp_path: Path) -> None:
    task = NotedScores(40, tmp_path / "notes")
    analyze(task, store=Dictionary())
    assert task.noted()[0] == {str(os.getpid())}


class Undefined(MeanTask):
    """Fails on fewer than all images, so that no row has bounds."""

    def score(self, predictions: Any) -> dict[str, float]:
        if len(predictions) < 40:
            raise ValueError("too few images")
        return super().score(predictions)


def test_why_rows_lack_bounds_is_told_by_whoever_scored_them() -> None:
    study = analyze(Undefined(40))
    [note] = [note for note in study.notes if "no interval for" in note]
    assert f"{len(study.measurements)} of {len(study.measurements)} measurements" in note


def test_an_interrupt_while_others_score_costs_bounds_and_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        monkeypatch.setattr("sensitivity.sweep.passes.in_parallel.wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr("sensitivity.sweep.passes.in_parallel.wait", interrupted)
    study = analyze(MeanTask(40))
    assert [row.drop for row in study.measurements] == [row.drop for row in alone(40).measurements]
    assert [row.drop_low is None for row in study.measurements] == [
        number >= 1 for number in range(len(study.measurements))
    ]
    assert any("interrupted while scores were computed" in note for note in study.notes)
