"""``sensitivity diagnose`` gives what ``wrapped.diagnose`` gives, and writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import sensitivity as sv
from sensitivity.cli.main import main
from tests.cli import named_models

HERE = "tests.cli.named_models"
MODEL, TASK, IMAGES = f"{HERE}:model", f"{HERE}:task", f"{HERE}:images"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def expected(**settings: object) -> sv.Diagnosis:
    net, example = named_models.model()
    return sv.wrap(net.eval(), example).diagnose(named_models.images(), sv.INT8_MINMAX, **settings)  # type: ignore[arg-type]


def test_it_is_what_wrapped_diagnose_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", MODEL, IMAGES, "--recipe", "int8-minmax", "--table", "layers.csv"]) == 0
    assert sv.Diagnosis.load("diagnosis.json") == sv.Diagnosis.of(expected())
    assert Path("diagnosis.png").read_bytes().startswith(b"\x89PNG")
    assert list(pd.read_csv("layers.csv")["layer"]) == [finding.layer for finding in expected()]
    output = capsys.readouterr().out
    assert output.startswith(str(expected()))
    assert all(f"wrote {name}" in output for name in ("diagnosis.json", "diagnosis.png", "layers.csv"))


def test_layers_and_line_and_calibration_reach_the_diagnosis(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--layers", "@stem", "--enough-db", "99", "--calibration", f"{HERE}:calibration", "--json"]
    assert main(["diagnose", MODEL, TASK, *words, "--picture", "a.svg"]) == 0
    diagnosis = sv.Diagnosis.from_json(json.loads(capsys.readouterr().out))
    assert [finding.layer for finding in diagnosis] == ["layers:0:0"]
    assert diagnosis.recipe == sv.INT8
    assert diagnosis.enough_db == 99.0
    assert "no ranges are at hand" in diagnosis.notes[0]  # the calibration has those of int8 alone
    assert Path("a.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_no_images_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", MODEL, f"{HERE}:no_images"]) == 2
    assert "returned NoneType, which is no images" in capsys.readouterr().err


def test_the_engine_reaches_the_diagnosis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    passed: dict[str, object] = {}

    def stand_in(*_: object, **keywords: object) -> None:
        passed.update(keywords)
        raise sv.SensitivityError("enough")

    monkeypatch.setattr(sv.Wrapped, "diagnose", stand_in)
    assert main(["diagnose", MODEL, IMAGES, "--engine", "onnxruntime"]) == 2
    assert passed["engine"] == "onnxruntime"
    assert main(["diagnose", MODEL, IMAGES, "--engine", "nine"]) == 2
    assert "no engine is called 'nine'" in capsys.readouterr().err
