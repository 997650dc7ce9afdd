"""Sweeps on Ray: workers die, and the study is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.errors import MissingPackageError
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


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"needs the package Ray.*pip install -e '\.\[ray\]'"):
        sv.ray_executor()
