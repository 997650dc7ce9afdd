"""How a sweep runs: as a value, as keywords, and in processes of its own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

import sensitivity as sv
from sensitivity.errors import ExecutorError
from sensitivity.sweep.settings import Sweep
from tests.sweep.mean_task import Chain, MeanTask
from tests.sweep.storage.stored_sweeps import known


@pytest.fixture
def wrapped() -> sv.Wrapped:
    return sv.wrap(Chain().eval(), MeanTask(1).inputs)


def analyze(wrapped: sv.Wrapped, **settings: Any) -> sv.Study:
    return wrapped.analyze(MeanTask(16), sv.INT4_WEIGHTS, progress=False, **settings)


def test_settings_are_public_and_a_frozen_value() -> None:
    assert sv.Sweep is Sweep
    assert sv.Sweep(replay=False) == sv.Sweep(replay=False) != sv.Sweep()
    with pytest.raises(FrozenInstanceError, match="replay"):
        sv.Sweep().replay = False  # type: ignore[misc]


def test_settings_say_the_same_as_keywords(wrapped: sv.Wrapped) -> None:
    by_value, by_keyword = analyze(wrapped, settings=sv.Sweep(intervals=False)), analyze(wrapped, intervals=False)
    assert known(by_value) == known(by_keyword)
    assert {row.drop_low for row in by_value.measurements} == {None}
    assert None not in {row.drop_low for row in analyze(wrapped).measurements}


def test_explain_takes_settings(wrapped: sv.Wrapped) -> None:
    task = MeanTask(16)
    usual = wrapped.explain(task, sv.INT4_WEIGHTS, settings=sv.Sweep())
    assert usual.kept_bytes > 0
    assert wrapped.explain(task, sv.INT4_WEIGHTS, settings=sv.Sweep(memory_limit=0)).kept_bytes < usual.kept_bytes
    assert wrapped.explain(task, sv.INT4_WEIGHTS, replay=False).kept_bytes == 0


def test_an_unknown_keyword_is_a_type_error_that_names_it(wrapped: sv.Wrapped) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'exectuor'.*executor"):
        analyze(wrapped, exectuor=None)


def test_an_executor_and_workers_together_are_refused() -> None:
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ExecutorError, match=r"executor= and workers=2 both say where passes run"),
    ):
        sv.Sweep(executor=executor, workers=2)


@pytest.mark.slow
def test_workers_give_the_study_of_one_process_and_end_with_the_sweep(wrapped: sv.Wrapped) -> None:
    before = set(multiprocessing.active_children())
    study = analyze(wrapped, settings=sv.Sweep(workers=2))
    assert set(multiprocessing.active_children()) == before
    assert known(study) == known(analyze(wrapped))


def test_workers_are_as_many_processes_as_asked_for_and_end_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    shutdown = ProcessPoolExecutor.shutdown

    def noted(pool: ProcessPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        ended.append(cancel_futures)
        shutdown(pool, wait, cancel_futures=cancel_futures)

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", noted)

    def fail(executor: object) -> None:
        assert isinstance(executor, ProcessPoolExecutor)
        raise RuntimeError(f"in the sweep, on {executor._max_workers} processes")

    with pytest.raises(RuntimeError, match="in the sweep, on 3 processes"), sv.Sweep(workers=3).workplace() as executor:
        fail(executor)
    assert ended == [True]


def test_a_worker_that_imports_the_script_starts_no_workers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(ExecutorError, match=r'under if __name__ == "__main__"'), sv.Sweep(workers=1).workplace():
        pass
