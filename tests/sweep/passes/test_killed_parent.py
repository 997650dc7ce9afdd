"""Forked workers of a sweep that is killed: they end with it, and do not keep its store locked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sensitivity.errors import StoreConflictError, StoreError
from sensitivity.sweep.storage.journal import Journal

PATIENCE_S = 20.0


def is_running(process: int) -> bool:
    """Whether a process is there and no zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists() or not hasattr(os, "fork"), reason="looks at /proc")
def test_forked_workers_end_with_a_killed_sweep_and_leave_its_store_free(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "store.jsonl"
    sweep = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.sweep.passes.killed_sweep", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert sweep.stdout is not None
    workers = {int(sweep.stdout.readline()) for _ in range(2)}
    assert len(workers) == 2
    with pytest.raises(StoreConflictError, match="another process"):
        Journal(path)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # still there, holding whatever they inherited
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    sweep.stdout.close()
    Journal(path).close()
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    deadline = time.monotonic() + PATIENCE_S
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if is_running(worker)]


def test_a_system_without_file_locks_is_told_before_a_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"needs fcntl, which this system lacks\. Leave out store="):
        Journal(tmp_path / "store.jsonl")
    assert not list(tmp_path.iterdir())
