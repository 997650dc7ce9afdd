"""``sensitivity explain`` passes on what ``wrapped.explain`` finds, and takes the words of ``analyze``."""

from __future__ import annotations

import json

import pytest

import sensitivity as sv
from sensitivity.cli.main import main

HERE = "tests.cli.named_models"
MODEL, TASK, IMAGES = f"{HERE}:model", f"{HERE}:task", f"{HERE}:images"


def test_it_counts_what_analyze_would_measure(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "int8-weights", "--recipe", "int8", "--calibration", IMAGES, "--layers", "@stem"]
    assert main(["explain", MODEL, TASK, *words, "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert (costs["variants"], costs["images"], costs["naive_passes"]) == (2, 4, 3)  # one layer, two recipes
    assert costs["seconds"] > 0.0
    assert main(["explain", MODEL, TASK, "--recipe", "int8-weights"]) == 0
    assert capsys.readouterr().out.startswith("3 variants on 4 images: about ")


def test_options_reach_the_explanation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    passed: dict[str, object] = {}

    def stand_in(*_: object, **keywords: object) -> None:
        passed.update(keywords)
        raise sv.SensitivityError("enough")

    monkeypatch.setattr(sv.Wrapped, "explain", stand_in)
    words = ["--recipe", "int8-weights", "--stop", "--tolerance", "0.5", "--no-intervals"]
    assert main(["explain", MODEL, TASK, *words]) == 2
    assert passed["stop"] == sv.Confidence(tolerance=0.5)
    assert passed["settings"] == sv.Sweep(intervals=False)
    assert capsys.readouterr().err == "sensitivity: enough\n"


def test_missing_images_are_told_before_the_model_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nothing:there", TASK]) == 2
    assert "recipe int8 quantizes activations and needs images" in capsys.readouterr().err
