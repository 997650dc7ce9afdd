from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sensitivity
from sensitivity.cli.main import main


def test_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"sensitivity {sensitivity.__version__}\n"


@pytest.mark.parametrize("words", [[], ["nonsense"], ["demo", "--scenes", "many"]], ids=" ".join)
def test_a_wrong_command_line_exits_with_2_and_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "usage: sensitivity" in capsys.readouterr().err


def test_an_error_of_this_library_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path), "--scenes", "0"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sensitivity: 0 scenes cannot be scored.")
    assert captured.err.count("\n") == 1


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sensitivity.demo.run.run_demo", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["demo"])


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sensitivity.demo.run.run_demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "sensitivity: interrupted\n"


def test_the_demo_gets_folder_and_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("sensitivity.demo.run.run_demo", lambda folder, *, scenes: calls.append((folder, scenes)))
    assert main(["demo"]) == 0
    assert main(["demo", "elsewhere", "--scenes", "3"]) == 0
    assert calls == [(Path("sensitivity-demo"), 48), (Path("elsewhere"), 3)]


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from sensitivity.cli.main import main; main(['demo', '--help'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "sensitivity-demo" in found.stdout
