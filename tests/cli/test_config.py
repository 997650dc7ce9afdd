from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensitivity.cli.config import expanded
from sensitivity.cli.main import main
from sensitivity.errors import SensitivityError
from sensitivity.study import Study

MODEL, TASK = "tests.cli.named_models:model", "tests.cli.named_models:task"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    words = [MODEL, TASK, "--recipe", "int4-weights", "--no-intervals", "--workers", "auto"]
    assert main(["analyze", *words, "--save-config", "sweep.json", "--out", "first.json"]) == 0
    return tmp_path / "sweep.json"


def test_a_saved_command_line_runs_again_and_gives_the_same_study(config: Path) -> None:
    assert main(["analyze", "--config", str(config), "--out", "again.json"]) == 0
    first, again = Study.load("first.json"), Study.load("again.json")
    assert [row.metrics for row in again.measurements] == [row.metrics for row in first.measurements]
    assert list(again.recipes) == ["int4-weights"]


def test_what_stands_beside_a_config_comes_after_it(config: Path) -> None:
    words = expanded(["analyze", "--config", str(config), "--limit", "2"])
    assert words[:3] == ["analyze", MODEL, TASK]
    assert words[-2:] == ["--limit", "2"]
    assert "--save-config" not in words
    assert main([*words, "--out", "few.json"]) == 0
    assert Study.load("few.json").baseline.images == 2


def test_a_config_of_another_command_is_refused(config: Path) -> None:
    config.write_text(json.dumps({"schema": 1, "command": "tune", "arguments": []}), encoding="utf-8")
    with pytest.raises(SensitivityError, match="holds a command line of 'tune', not of 'analyze'"):
        expanded(["analyze", "--config", str(config)])


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([], "holds no command line"),
        ({"schema": 1, "command": "analyze", "arguments": [3]}, "holds no command line"),
        ({"schema": 9, "command": "analyze", "arguments": []}, "has the schema 9; this version reads 1"),
    ],
)
def test_a_file_that_is_no_config_is_refused(plain: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(SensitivityError, match=message):
        expanded(["analyze", f"--config={path}"])


def test_a_missing_config_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "--config", str(tmp_path / "none.json")]) == 2
    text = capsys.readouterr().err
    assert text.startswith("sensitivity: no command line at ")
    assert text.count("\n") == 1


@pytest.mark.parametrize("words", [["--config", "sweep.json"], ["analyze", "--config"]], ids=" ".join)
def test_half_of_a_command_line_is_told_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert capsys.readouterr().err.count("\n") == 1
