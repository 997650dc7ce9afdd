from __future__ import annotations

import json
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.cli.recipes import READY, recipe
from sensitivity.study import Study
from tests.cli import named_models

HERE = "tests.cli.named_models"
MODEL, TASK, IMAGES = f"{HERE}:model", f"{HERE}:task", f"{HERE}:images"


def drops(study: Study) -> list[tuple[str, str, float | None]]:
    return [(one.layer, one.recipe, one.drop) for one in study.measurements]


def test_it_is_what_wrapped_analyze_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "study.json"
    words = ["--recipe", "int8", "--recipe", "int4-weights", "--calibration", IMAGES, "--out", str(out)]
    assert main(["analyze", MODEL, TASK, *words]) == 0
    net, example = named_models.model()
    expected = sv.wrap(net.eval(), example).analyze(
        named_models.task(), [sv.INT8, sv.INT4_WEIGHTS], calibration=named_models.images()
    )
    assert drops(Study.load(out)) == drops(expected)
    assert f"wrote {out}" in capsys.readouterr().out


def test_json_is_the_study_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "int8-weights", "--out", str(tmp_path / "a.json"), "--json"]
    assert main(["analyze", MODEL, TASK, *words]) == 0
    assert Study.from_json(json.loads(capsys.readouterr().out)) == Study.load(tmp_path / "a.json")


def test_layers_are_chosen_by_pattern(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    words = ["--recipe", "int8-weights", "--layers", "@stem", "--layers", "@output", "--out", str(out)]
    assert main(["analyze", MODEL, TASK, *words]) == 0
    assert [one.layer for one in Study.load(out).measurements] == ["layers:0:0", "layers:0:2"]


def test_a_store_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", "int8-weights", "--store", str(tmp_path / "kept.jsonl"), "--out", str(tmp_path / "a.json")]
    assert main(["analyze", MODEL, TASK, *words]) == 0
    kept = (tmp_path / "kept.jsonl").read_bytes()
    assert main(["analyze", MODEL, TASK, *words]) == 0
    assert (tmp_path / "kept.jsonl").read_bytes().startswith(kept)
    monkeypatch.setattr(named_models, "SIDE", 8)  # another task: the store is not for it
    assert main(["analyze", MODEL, TASK, *words]) == 1
    assert "the store was written for something else" in capsys.readouterr().err


def test_activations_need_images_and_that_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "nothing:there", TASK, "--out", str(tmp_path / "a.json")]) == 1
    assert "recipe int8 quantizes activations and needs images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([MODEL, f"{HERE}:number"], "TASK 'tests.cli.named_models:number' returned int, which is no task"),
        ([f"{HERE}:number", TASK], "returned int. Return a torch module"),
        ([MODEL, TASK, "--layers", "stage9:*:*"], "stage9"),
    ],
)
def test_what_cannot_be_done_is_exit_code_1(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    assert main(["analyze", *words, "--recipe", "int8-weights", "--out", str(out), "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    words = ["--recipe", "int8-weights", "--out", str(tmp_path / "file" / "a.json")]
    assert main(["analyze", f"{HERE}:broken", TASK, *words]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_recipes_by_name_are_those_of_the_front_door() -> None:
    presets = [sv.INT8, sv.INT8_WEIGHTS, sv.INT8_ACTIVATIONS, sv.INT4_WEIGHTS, sv.FP8, sv.THESIS]
    assert {one.name: one for one in presets} == READY
    assert recipe("prune-0.5") == sv.Prune(0.5)
    assert recipe("prune-2:4") == sv.Prune("2:4")


def test_a_recipe_can_be_a_file(tmp_path: Path) -> None:
    mine = sv.Recipe("mine", weights=sv.QuantSpec("int3", "per-channel"))
    (tmp_path / "mine.json").write_text(json.dumps(mine.to_json()), encoding="utf-8")
    assert recipe(str(tmp_path / "mine.json")) == mine


@pytest.mark.parametrize("text", ["int9", "prune-lots", "prune-2:x", "prune-1.5", "missing.json"])
def test_another_recipe_is_a_wrong_command_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["analyze", MODEL, TASK, "--recipe", text])
    assert repr(text) in capsys.readouterr().err
