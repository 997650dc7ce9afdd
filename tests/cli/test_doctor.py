from __future__ import annotations

import json
import platform

import pytest

from sensitivity import __version__
from sensitivity.cli.main import main
from sensitivity.deploy.doctor.machine import Finding

FOUND = [
    Finding("torch", True, "2.13.0", "the simulation"),
    Finding("tensorrt", False, None, "the package 'tensorrt' is not installed"),
]


@pytest.fixture(autouse=True)
def findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensitivity.cli.doctor.examine", lambda: FOUND)


def test_what_works_and_what_does_not_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith(f"sensitivity {__version__}, Python {platform.python_version()}")
    assert first.split(maxsplit=3) == ["works", "torch", "2.13.0", "the simulation"]
    assert second.split(maxsplit=2) == ["no", "tensorrt", "the package 'tensorrt' is not installed"]


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sensitivity"] == __version__
    assert [Finding(**one) for one in found["findings"]] == FOUND


def test_an_engine_that_was_asked_for_and_does_not_work_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "torch"]) == 0
    assert main(["doctor", "torch", "tensorrt"]) == 1
    assert "tensorrt does not work here: the package 'tensorrt' is not installed" in capsys.readouterr().err


def test_an_unknown_engine_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "tensort"])
    assert "no engine is called 'tensort'" in capsys.readouterr().err
