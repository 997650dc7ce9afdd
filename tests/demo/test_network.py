"""The demo's network can be named on a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.demo import network

HERE = "sensitivity.demo.network"


def test_tune_and_diagnose_run_on_the_demos_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(network, "SCENES", 2)
    sam, calibration = network.uneven_sam()
    monkeypatch.setattr(network, "_sam", lambda: (sam, calibration[:2]))
    minmax = ["--recipe", "int8-minmax"]
    words = ["--calibration", f"{HERE}:images", "--engine", "none", "--max-drop", "50"]
    assert main(["tune", f"{HERE}:model", f"{HERE}:task", *minmax, *words]) == 0
    assert len(sv.Tuned.load("tuned.json").layers) == 45
    assert main(["diagnose", f"{HERE}:model", f"{HERE}:images", *minmax, "--layers", "stage0:*:*"]) == 0
    assert [finding.layer for finding in sv.Diagnosis.load("diagnosis.json")] == [
        "stage0:0:0",
        "stage0:1:0",
        "stage0:1:1",
    ]
    assert "on generated scenes" in capsys.readouterr().out
