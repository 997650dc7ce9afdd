from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import pytest

from sensitivity import __version__
from sensitivity.cli.main import main
from sensitivity.deploy.doctor.machine import MachineFinding
from sensitivity.deploy.engines import registry

FOUND = [
    MachineFinding("torch", True, "2.13.0", "the simulation"),
    MachineFinding("tensorrt", False, None, "the package 'tensorrt' is not installed"),
]


@pytest.fixture(autouse=True)
def findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensitivity.cli.commands.doctor.examine", lambda: FOUND)


def test_what_works_and_what_does_not_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith(f"sensitivity {__version__}, Python {platform.python_version()}")
    assert first.split(maxsplit=3) == ["works", "torch", "2.13.0", "the simulation"]
    assert second.split(maxsplit=2) == ["no", "tensorrt", "the package 'tensorrt' is not installed"]


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["sensitivity"] == __version__
    assert [MachineFinding(**finding) for finding in printed["findings"]] == FOUND


def test_an_engine_that_was_asked_for_and_does_not_work_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "torch"]) == 0
    assert main(["doctor", "torch", "tensorrt"]) == 1
    assert "tensorrt does not work here: the package 'tensorrt' is not installed" in capsys.readouterr().err


def test_an_unknown_engine_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "tensort"])
    assert "no engine is called 'tensort'" in capsys.readouterr().err


MINE = """
import sensitivity as sv


def build(graph, **settings):
    raise NotImplementedError


sv.register_engine("mine", build, package="no-such-package")
"""


def test_an_engine_of_a_module_that_is_imported_can_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    monkeypatch.delitem(sys.modules, "engine_of_mine", raising=False)
    (tmp_path / "engine_of_mine.py").write_text(MINE, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "mine"])
    monkeypatch.setattr(
        "sensitivity.cli.commands.doctor.examine",
        lambda: [MachineFinding(kind.name, kind.name != "mine", None, "tried") for kind in registry.engine_kinds()],
    )
    assert main(["doctor", "mine", "--import", str(tmp_path / "engine_of_mine.py")]) == 1
    assert "mine does not work here: tried" in capsys.readouterr().err


def test_a_module_to_import_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--import", "no_such_module_of_engines"]) == 2
    assert "there is no module 'no_such_module_of_engines' for --import" in capsys.readouterr().err
    assert main(["doctor", "--import", "no_such_file.py"]) == 2
    assert "there is no file 'no_such_file.py' for --import" in capsys.readouterr().err
