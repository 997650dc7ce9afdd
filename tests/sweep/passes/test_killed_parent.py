"""Forked workers of a sweep that is killed: they end with it, and do not keep its store locked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import sensitivity as sv
from sensitivity.errors import StoreConflictError, StoreError
from sensitivity.sweep.passes.shared_folder import PREFIX, remove_abandoned
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
def test_workers_end_with_a_killed_sweep_and_leave_its_store_free_and_no_folder(
    tmp_path: Path, repository: Path
) -> None:
    path, temporary = tmp_path / "store.jsonl", tmp_path / "temporary"
    temporary.mkdir()
    sweep = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.sweep.passes.killed_sweep", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository), "TMPDIR": str(temporary)},
    )
    assert sweep.stdout is not None
    workers = {int(sweep.stdout.readline()) for _ in range(2)}
    assert len(workers) == 2
    assert list(temporary.glob(f"{PREFIX}*")), "what the workers need lies here"
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
    assert not list(temporary.glob(f"{PREFIX}*")), "the workers clean up as they end"


def test_a_system_without_file_locks_is_told_before_a_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"needs fcntl, which this system lacks\. Leave out store="):
        Journal(tmp_path / "store.jsonl")
    wrapped = sv.wrap(torch.nn.Conv2d(3, 2, 1), torch.rand(1, 3, 4, 4))
    task = sv.callback_task(lambda model: pytest.fail("a pass was run"))
    with pytest.raises(StoreError, match=r"store=: a store in a file needs fcntl, which this system lacks"):
        wrapped.analyze(task, sv.INT8_WEIGHTS, store=tmp_path / "store.jsonl", progress=False)
    assert not list(tmp_path.iterdir())


def test_folders_of_sweeps_that_are_gone_are_removed_and_others_are_not(tmp_path: Path) -> None:
    old, new, link, other = (tmp_path / f"{PREFIX}{name}" for name in ("old", "new", "link", "other"))
    for folder in (old, new, other):
        folder.mkdir()
        (folder / "job").write_bytes(b"model")
    os.utime(old, (0, 0))  # killed before it could take its lock
    (other / "in-use").touch()  # killed later
    link.symlink_to(new)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_ITS_FOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    used = Path(process.stdout.readline().strip())
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {new.name, link.name, used.name}
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {new.name, link.name}


HOLDS_ITS_FOLDER = """
from sensitivity.sweep.passes.shared_folder import shared_folder
with shared_folder() as folder:
    print(folder, flush=True)
    input()
"""
