"""Sweeps on Ray: workers die, and the study is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sensitivity as sv
from sensitivity.errors import ExecutorError, MissingPackageError
from sensitivity.sweep.passes.ray_workers import RayExecutor
from tests.sweep.storage.stored_sweeps import known


@pytest.mark.slow
def test_a_sweep_whose_ray_workers_are_killed_equals_one_in_a_single_process(tmp_path: Path) -> None:
    """A real local cluster, in a process of its own: Ray leaves threads and settings behind."""
    command = [sys.executable, "-m", "tests.sweep.passes.ray_sweep", str(tmp_path)]
    repository = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DISABLE_IMPORT_WARNING": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) == 4, "images 8, 24, 40 and 56 begin a batch that kills its worker once"
    single, ray = (sv.Study.load(tmp_path / f"{name}.json") for name in ("one process", "ray"))
    assert known(ray) == known(single)


def answer_of(error: BaseException | None) -> Future[str]:
    """What an executor gives whose Ray task ended with this."""
    ended: Future[str] = Future()
    ended.set_result("done") if error is None else ended.set_exception(error)
    executor = RayExecutor.__new__(RayExecutor)  # no cluster is needed
    executor._task = SimpleNamespace(remote=lambda *_: SimpleNamespace(future=lambda: ended))
    return executor.submit(str)


def test_what_a_call_raises_on_the_cluster_is_raised_here() -> None:
    mistake = ValueError("a mistake of the user's own")
    task_error = ray_exceptions().RayTaskError("call", "Traceback of the worker", mistake)
    assert answer_of(task_error).exception() is mistake
    assert answer_of(None).result() == "done"


def test_what_ray_itself_raises_is_an_error_of_this_library_that_says_what_to_do() -> None:
    crash = ray_exceptions().WorkerCrashedError()
    error = answer_of(crash).exception()
    assert isinstance(error, ExecutorError)
    assert error.__cause__ is crash
    assert "WorkerCrashedError: The worker died unexpectedly" in str(error)
    assert "log files for more information. With store= everything taken in is kept" in str(error)


def test_without_a_cluster_the_error_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        ExecutorError, match=r"no Ray cluster at 'auto': Could not .* Start one with 'ray start --head'"
    ):
        sv.ray_executor("auto")


def test_ray_that_was_started_in_vain_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, ended = pytest.importorskip("ray"), []
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(ExecutorError, match=r"2 CPUs and 0 GPUs: no worker with 1 CPUs and 1 GPUs fits"):
        sv.ray_executor(num_gpus=1)
    assert ended == [True]


def ray_exceptions() -> Any:
    return pytest.importorskip("ray.exceptions")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"needs the package Ray.*pip install -e '\.\[ray\]'"):
        sv.ray_executor()
