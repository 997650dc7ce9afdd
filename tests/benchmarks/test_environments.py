"""What the peers' benchmark asks of other tools, and what it does with one that takes too long."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peers import environments
from benchmarks.peers.environments import Peer, run_worker


def peer(work: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    (folder / "with_tool.py").write_text(work, encoding="utf-8")
    monkeypatch.setattr(environments, "WORKERS", folder)
    monkeypatch.setattr(environments, "python_of", lambda *_: Path(sys.executable))
    return Peer("Tool", "with_tool.py", ("default",), ())


def test_a_peer_that_takes_too_long_is_a_row_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = peer("while True:\n    pass\n", tmp_path, monkeypatch)
    assert run_worker(tool, tmp_path / "out", tmp_path, 1) == {"error": "not done after 1 CPU seconds"}


def test_the_answer_of_a_peer_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = "import pathlib, sys\npathlib.Path(sys.argv[1]).with_suffix('.json').write_text('{\"lines\": 4}')\n"
    assert run_worker(peer(work, tmp_path, monkeypatch), tmp_path / "out", tmp_path, 60) == {"lines": 4}


def test_ways_against_saturation_are_compared_only_where_sums_saturate() -> None:
    tool = Peer("Tool", "with_tool.py", ("default",), (), against_saturation=("safe",))
    assert tool.ways(saturates=False) == ("default",)
    assert tool.ways(saturates=True) == ("default", "safe")
