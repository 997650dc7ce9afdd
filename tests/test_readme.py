"""The README: what it shows is executed, and its commands are those that the checks run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import sensitivity as sv
from tests.docs.stages import detector

TEST_COMMAND = "pip install -e '.[test]' && pytest"
DEMO_COMMAND = "pip install -e '.[demo]' && sensitivity demo"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_main_job_of_the_readme_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [block] = python_blocks(repository / "README.md")
    names: dict[str, Any] = detector(tmp_path, side=320)
    exec(compile(block, "README.md", "exec"), names)
    assert names["study"].baseline.value > 0.9
    assert names["tuned"].met
    assert names["tuned"].scheme.recipes
    assert (tmp_path / "dips.png").is_file()
    assert sv.Study.load(tmp_path / "study.json").table().equals(names["study"].table())
    printed = capsys.readouterr().out
    assert re.search(r"^BrightSpot with int8: \d+ of 11 layers are hurt", printed, re.MULTILINE), "the diagnosis"
    assert names["deployed"].name == "openvino"
    assert "on openvino: as simulated" in printed, "weights in 7 bits where sums of eight saturate"


def test_the_readme_holds_its_two_commands_once_each(repository: Path) -> None:
    lines = (repository / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.count(TEST_COMMAND) == 1
    assert lines.count(DEMO_COMMAND) == 1


def test_the_checks_run_the_test_command_that_the_readme_promises(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    pattern = re.search(r'grep -E "(.+?)" README\.md', script.read_text(encoding="utf-8"))
    assert pattern is not None
    lines = (repository / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(pattern[1], line)] == [TEST_COMMAND]
