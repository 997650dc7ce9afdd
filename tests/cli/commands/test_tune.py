"""``sensitivity tune`` gives what ``wrapped.tune`` gives, writes it, and says with its exit code whether it is met."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sensitivity as sv
from sensitivity.cli.main import main
from tests.cli import named_models
from tests.made_studies import make_study

HERE = "tests.cli.named_models"
MODEL, TASK, IMAGES = f"{HERE}:model", f"{HERE}:task", f"{HERE}:images"
ROOMY = str(10**6)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tune(*words: str) -> int:
    return main(["tune", MODEL, TASK, "--engine", "none", *words])


def steps(tuned: sv.Tuned) -> list[tuple[Any, ...]]:
    return [(step.kind, step.what, step.score, step.chosen) for step in tuned.steps]


def test_it_is_what_wrapped_tune_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "int8", "--recipe", "int8-affine", "--calibration", IMAGES, "--size-bytes", ROOMY]
    assert tune(*words, "--table", "steps.csv") == 0
    net, example = named_models.model()
    expected = sv.wrap(net.eval(), example).tune(
        named_models.task(),
        size_bytes=10**6,
        engine=None,
        candidates=[sv.INT8, sv.INT8_AFFINE],
        calibration=named_models.images(),
    )
    tuned = sv.Tuned.load("tuned.json")
    assert steps(tuned) == steps(expected)
    assert sv.Scheme.load("tuned_scheme.json") == tuned.scheme == expected.scheme
    assert Path("path.png").read_bytes().startswith(b"\x89PNG")
    assert list(pd.read_csv("steps.csv")["what"]) == [step.what for step in expected.steps]
    output = capsys.readouterr().out
    assert all(f"wrote {name}" in output for name in ("tuned.json", "tuned_scheme.json", "path.png", "steps.csv"))


def test_json_is_the_tuned_model_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune("--recipe", "int4-weights", "--size-bytes", "1MiB", "--json") == 0
    assert sv.Tuned.from_json(json.loads(capsys.readouterr().out)) == sv.Tuned.load("tuned.json")


def test_a_target_that_is_not_met_exits_with_1_and_the_nearest_scheme_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune("--recipe", "int4-weights", "--size-bytes", "10") == 1
    captured = capsys.readouterr()
    assert "the target of at most 10 bytes was not met; the nearest that was measured has" in captured.err
    assert captured.err.count("\n") == 1
    assert [rule.recipe for rule in sv.Scheme.load("tuned_scheme.json").rules] == [sv.INT4_WEIGHTS]


def test_the_scheme_that_protect_wrote_is_left_alone() -> None:
    make_study([0.3, 0.2, 0.1]).save("study.json")
    assert main(["protect", "study.json", "--top", "1", "--out", "scheme.json"]) == 0  # the name that the pages use
    before = Path("scheme.json").read_bytes()
    assert tune("--recipe", "int4-weights", "--size-bytes", ROOMY) == 0
    assert Path("scheme.json").read_bytes() == before


def test_a_store_is_gone_on_from() -> None:
    words = ["--recipe", "int8-weights", "--size-bytes", ROOMY, "--store", "kept.jsonl"]
    assert tune(*words) == 0
    before = Path("kept.jsonl").read_bytes()
    first = sv.Tuned.load("tuned.json")
    assert tune(*words) == 0
    assert Path("kept.jsonl").read_bytes().startswith(before)
    assert steps(sv.Tuned.load("tuned.json")) == steps(first)


def test_every_option_reaches_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: dict[str, Any] = {}

    def stand_in(_: sv.Wrapped, task: sv.Task, **keywords: Any) -> None:
        passed.update(keywords, task=task.name)
        raise sv.SensitivityError("enough")

    monkeypatch.setattr(sv.Wrapped, "tune", stand_in)
    words = ["--engine", "openvino", "--max-drop", "0.5", "--size-bytes", "2KiB", "--latency-s", "0.25", "--stop"]
    files = ["--store", "kept.jsonl", "--recipe", "int8-weights", "--workers", "2"]
    assert main(["tune", MODEL, TASK, *words, *files]) == 2
    assert type(passed.pop("executor")).__name__ == "ProcessPoolExecutor"
    assert passed == {
        "task": "four images",
        "engine": "openvino",
        "max_drop": 0.5,
        "size_bytes": 2048,
        "latency_s": 0.25,
        "stop": sv.Confidence(tolerance=0.5),
        "store": Path("kept.jsonl"),
        "candidates": [sv.INT8_WEIGHTS],
        "calibration": None,
    }


@pytest.mark.parametrize("seconds", ["-1", "0", "soon", "inf"])
def test_a_latency_is_a_time_above_zero(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        tune("--latency-s", seconds)
    assert f"argument --latency-s: {seconds!r} is no time above zero" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "tune needs a target: give --max-drop"),
        (["--max-drop", "1"], "the candidates quantize activations and need images .* give --calibration"),
        (["--size-bytes", "9", "--recipe", "int8-weights", "--stop"], "--stop needs the drop that matters"),
        (["--size-bytes", "9", "--recipe", "int8-weights", "--out", "."], "cannot write .*it is a folder"),
        (["--size-bytes", "9", "--recipe", "int8-weights", "--store", "."], "cannot write .*it is a folder"),
        (["--size-bytes", "9", "--recipe", "int8-weights", "--engine", "nine"], "no engine is called 'nine'"),
        (["--latency-s", "9", "--recipe", "int8-weights", "--engine", "torch"], "torch does not tell the time"),
    ],
)
def test_what_cannot_work_is_told_before_the_model_is_loaded(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(named_models, "model", lambda: pytest.fail("the model was loaded"))
    assert main(["tune", MODEL, TASK, *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_explain_tells_the_cost_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune("--recipe", "int8-weights", "--size-bytes", ROOMY, "--explain") == 0
    assert "1 candidate on 4 images: about" in capsys.readouterr().out
    assert not list(Path().iterdir())
    assert tune("--recipe", "int8-weights", "--size-bytes", ROOMY, "--explain", "--json") == 0
    assert json.loads(capsys.readouterr().out)["least_passes"] == 2.0
