from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import sensitivity
from sensitivity.cli.arguments import PICTURES
from sensitivity.cli.main import COMMANDS, main, whole_parser
from sensitivity.cli.output import FAILED, INTERRUPTED, NOBODY_READS, WRONG, warnings_as_lines
from sensitivity.errors import SuspiciousPredictionsWarning
from sensitivity.report.figures.picture import FORMATS


def test_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"sensitivity {sensitivity.__version__}\n"


@pytest.mark.parametrize("words", [[], ["nonsense"], ["demo", "--scenes", "many"]], ids=" ".join)
def test_a_wrong_command_line_exits_with_2_and_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    message = capsys.readouterr().err
    assert message.startswith("sensitivity: ")
    assert "--help shows what can be given" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--scens", "3"], "--scens: no such argument; nearest is --scenes. sensitivity demo --help"),
        (["report", "study.json", "--frobnicate"], "--frobnicate: no such argument. sensitivity report --help"),
        (["report", "study.json", "--htlp"], "--htlp: no such argument. sensitivity report --help"),
        (["compare", "a.json", "b.json", "c.json"], "c.json: no such argument. sensitivity compare --help"),
    ],
    ids=" ".join,
)
def test_an_unknown_word_is_told_in_the_name_of_its_command(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert capsys.readouterr().err == f"sensitivity: {message} shows what can be given.\n"


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "my:model", "my:task", "--max-drop", "1", "--picture", "path.gif"],
        ["diagnose", "my:model", "my:images", "--picture", "path.gif"],
        ["compare", "a.json", "b.json", "--picture", "path.gif"],
        ["pareto", "a.json", "--out", "path.gif"],
    ],
    ids=lambda words: words[0],
)
def test_what_no_picture_can_be_drawn_into_is_told_before_anything_runs(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    error = capsys.readouterr().err
    assert "'path.gif' is no picture: give a path that ends in .png, .svg, .pdf. sensitivity " in error
    assert error.count("\n") == 1


def test_the_pictures_of_the_command_line_are_those_that_are_drawn() -> None:
    assert tuple(f".{ending}" for ending in FORMATS) == PICTURES


def test_an_error_of_this_library_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path), "--scenes", "0"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sensitivity: 0 scenes cannot be scored.")
    assert captured.err.count("\n") == 1


def test_other_errors_are_not_hidden_and_are_no_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sensitivity.demo.run.run_demo", broken)
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.endswith("ZeroDivisionError: a bug\n")


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
    assert calls == [(Path("sensitivity-demo"), 32), (Path("elsewhere"), 3)]


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [command.__name__.rsplit(".", 1)[1] for command in COMMANDS])
def test_help_needs_no_torch(command: str) -> None:
    code = "import sys; sys.modules['torch'] = None; from sensitivity.cli.main import main; main(sys.argv[1:])"
    completed = run_python(code, command, "--help")
    assert completed.returncode == 0, completed.stderr
    assert f"usage: sensitivity {command}" in completed.stdout or f"sensitivity {command}" in completed.stdout


def test_a_pipe_that_is_closed_early_ends_quietly() -> None:
    command = [sys.executable, "-m", "sensitivity.cli.main", "doctor", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def options(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Every command with the options and arguments that its help shows."""
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {
        name: [
            text for action in command_parser._actions for text in action.option_strings if text not in ("-h", "--help")
        ]
        for name, command_parser in commands.choices.items()
    }


def test_every_command_and_option_is_documented(repository: Path) -> None:
    page = (repository / "docs" / "reference" / "command_line.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0].strip("` "): part for part in page.split("\n## ")[1:]}
    for command, words in options(whole_parser()).items():
        assert command in sections, f"docs/reference/command_line.md has no section on {command}"
        for word in words:
            assert f"`{word}" in sections[command], f"docs/reference/command_line.md says nothing of {command} {word}"


def test_exit_codes_are_documented(repository: Path) -> None:
    page = (repository / "docs" / "reference" / "command_line.md").read_text(encoding="utf-8")
    for code in (0, FAILED, WRONG, INTERRUPTED, NOBODY_READS):
        assert f"| {code} |" in page


def test_warnings_of_this_library_are_one_line_and_those_of_others_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with warnings_as_lines():
            warnings.warn("AP is\n0", SuspiciousPredictionsWarning, stacklevel=1)
            warnings.warn_explicit("old", DeprecationWarning, "/usr/lib/site-packages/torch/thing.py", 3)
            warnings.warn("of the user's own code", UserWarning, stacklevel=1)
        assert warnings.showwarning.__module__ == "warnings"
    lines = ["sensitivity: warning: AP is 0", "sensitivity: warning: of the user's own code"]
    assert capsys.readouterr().err.splitlines() == lines
