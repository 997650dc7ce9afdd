"""A number format and an observer of the user's own, from the command line: from the recipe's file to the report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.records.recipes import formats, observers

SOURCE = """
import torch
import sensitivity as sv
from sensitivity.quantize.extremes import MinMaxObserver

sv.register_format(sv.NumberFormat("eleven", "integer", 5, -11, 11, "int8"), replace=True)
sv.register_observer("theirs", type("Theirs", (MinMaxObserver,), {}), replace=True)
X = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)), X[:1]

def task():
    return sv.FeatureFidelity(X)

def images():
    return X
"""
PLAIN = {
    "name": "own",
    "weights": {"format": "eleven", "granularity": "per-channel"},
    "activations": {"format": "int8", "observer": "theirs"},
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of a module that registers both when it is imported; whatever it registered is forgotten."""
    for known in (formats._FORMATS, observers._OBSERVERS):
        monkeypatch.setattr(known, "_values", dict(known._values))
    monkeypatch.setitem(sys.modules, "own_formats_here", None)
    del sys.modules["own_formats_here"]
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    Path("own_formats_here.py").write_text(SOURCE, encoding="utf-8")
    Path("own.json").write_text(json.dumps(PLAIN), encoding="utf-8")
    return "own_formats_here.py"


def forget() -> None:
    """What another process does not know."""
    del formats._FORMATS._values["eleven"], observers._OBSERVERS._values["theirs"]
    del sys.modules["own_formats_here"]


def test_formats_and_observers_that_a_module_registers_are_known_to_every_command(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = ["--calibration", f"{module}:images"]
    sweep = ["analyze", f"{module}:model", f"{module}:task", "--recipe", "own.json", "--out", "s.json"]
    assert main([*sweep, *ranges]) == 0
    forget()
    assert main(["protect", "s.json", "--top", "1", "--out", "scheme.json", "--import", module]) == 0
    forget()
    assert main(["evaluate", f"{module}:model", "scheme.json", f"{module}:task", *ranges]) == 0
    forget()
    assert main(["report", "s.json", "--out", "s.md", "--import", module]) == 0
    rows = Path("s.md").read_text(encoding="utf-8").splitlines()
    assert len([row for row in rows if row.startswith("| layers:0:") and "measured" in row]) == 2
    assert sv.Study.load("s.json").recipes["own"].weights == sv.QuantSpec("eleven", "per-channel")
    capsys.readouterr()


def test_a_format_that_no_module_registers_is_refused_by_name(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.json").write_text(json.dumps(PLAIN).replace("eleven", "twelve"), encoding="utf-8")
    words = ["analyze", f"{module}:model", f"{module}:task", "--recipe", "own.json"]
    assert main([*words, "--calibration", f"{module}:images", "--out", "s.json"]) == 2
    error = capsys.readouterr().err
    assert "argument --recipe: 'own.json' is no recipe: number format 'twelve' is not known" in error
    assert not Path("s.json").exists()


def test_a_module_to_import_that_is_not_there_is_named(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "s.json", "--import", "not_there_at_all"]) == 2
    assert "there is no module 'not_there_at_all' for --import" in capsys.readouterr().err
