from __future__ import annotations

import subprocess
import sys

import pytest

from sensitivity.cli.main import COMMANDS, main


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_script_knows_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="the extra 'completion' makes the script")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert command.__name__.rsplit(".", 1)[1] in script
    assert "save-config" in script


def test_bash_completes_a_command_and_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="the extra 'completion' makes the script")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = 'COMP_WORDS=(sensitivity {words}); COMP_CWORD={count}; _shtab_sensitivity; echo "${{COMPREPLY[@]}}"\n'
    lines = script + ask.format(words="comp", count=1) + ask.format(words="pareto --tun", count=2)
    run = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines() == ["compare completion", "--tuned"]


def test_without_shtab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install -e '.[completion]'" in capsys.readouterr().err
