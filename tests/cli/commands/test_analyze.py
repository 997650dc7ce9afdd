from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.cli.recipes import READY, recipe
from sensitivity.records.results.latency import latency_of
from sensitivity.study import Study
from tests.cli import named_models

HERE = "tests.cli.named_models"
MODEL, TASK, IMAGES = f"{HERE}:model", f"{HERE}:task", f"{HERE}:images"


def drops(study: Study) -> list[tuple[str, str, float | None]]:
    return [(measurement.layer, measurement.recipe, measurement.drop) for measurement in study.measurements]


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


def test_stop_and_tolerance_and_intervals_reach_the_sweep(tmp_path: Path) -> None:
    out, words = tmp_path / "a.json", ["analyze", MODEL, TASK, "--recipe", "int8-weights"]
    assert main([*words, "--out", str(out), "--stop", "--tolerance", "3"]) == 0
    info = Study.load(out).info
    assert (info.interval_of, info.tolerance) == ("this-data-set", 3.0)
    assert main([*words, "--out", str(out), "--no-intervals", "--tolerance", "4"]) == 0
    info = Study.load(out).info
    assert (info.interval_level, info.tolerance) == (None, 4.0)
    for command in (["report", "--out", str(tmp_path / "a.md")], ["protect", "--top", "1"]):
        assert main([command[0], str(out), *command[1:], "--tolerance", "1000"]) == 0
    assert "| dip " not in (tmp_path / "a.md").read_text(encoding="utf-8")


def test_a_stop_without_a_tolerance_is_told_in_the_words_of_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["analyze", MODEL, TASK, "--recipe", "int8-weights", "--stop"]) == 2
    assert "--stop needs the drop that matters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "argument --workers: '0' is no number of processes from 1 on, nor auto"),
        (["--workers", "many"], "argument --workers: 'many' is no number of processes from 1 on, nor auto"),
        (["--limit", "0"], "argument --limit: '0' is no number from 1 on"),
        (["--input", "1x3x-4"], "argument --input: '1x3x-4' is no shape like 1x3x224x224"),
    ],
)
def test_values_that_make_no_sense_are_told_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["analyze", MODEL, TASK, *words])
    help_hint = "sensitivity analyze --help shows what can be given."
    assert capsys.readouterr().err == f"sensitivity: {message}. {help_hint}\n"


def test_workers_are_those_of_the_sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings: list[sv.Sweep] = []

    def analyze(*_: object, **keywords: sv.Sweep) -> None:
        settings.append(keywords["settings"])
        raise sv.SensitivityError("enough")

    monkeypatch.setattr(sv.Wrapped, "analyze", analyze)
    assert (
        main(["analyze", MODEL, TASK, "--recipe", "int8-weights", "--workers", "3", "--out", str(tmp_path / "a")]) == 2
    )
    assert settings == [sv.Sweep(workers=3)]


def test_a_tolerance_that_is_no_drop_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["analyze", MODEL, TASK, "--tolerance", "-1"])
    assert "'-1' is no drop like 0.5" in capsys.readouterr().err


def test_layers_are_chosen_by_pattern(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    words = ["--recipe", "int8-weights", "--layers", "@stem", "--layers", "@output", "--out", str(out)]
    assert main(["analyze", MODEL, TASK, *words]) == 0
    assert [measurement.layer for measurement in Study.load(out).measurements] == ["layers:0:0", "layers:0:2"]


def test_a_store_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", "int8-weights", "--store", str(tmp_path / "kept.jsonl"), "--out", str(tmp_path / "a.json")]
    assert main(["analyze", MODEL, TASK, *words]) == 0
    before = (tmp_path / "kept.jsonl").read_bytes()
    assert main(["analyze", MODEL, TASK, *words]) == 0
    assert (tmp_path / "kept.jsonl").read_bytes().startswith(before)
    monkeypatch.setattr(named_models, "SIDE", 8)  # another task: the store is not for it
    assert main(["analyze", MODEL, TASK, *words]) == 2
    assert "the store was written for something else" in capsys.readouterr().err


def test_activations_need_images_and_that_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "nothing:there", TASK, "--out", str(tmp_path / "a.json")]) == 2
    assert "recipe int8 quantizes activations and needs images" in capsys.readouterr().err


def test_an_interrupted_sweep_is_written_and_exits_with_130(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    assert main(["analyze", MODEL, f"{HERE}:impatient", "--recipe", "int8-weights", "--out", str(out)]) == 130
    captured = capsys.readouterr()
    assert {measurement.status for measurement in Study.load(out).measurements} == {"interrupted"}
    assert f"wrote {out}" in captured.out
    assert "interrupted: 2 of 4 images were run" in captured.err


def test_an_interrupted_sweep_as_json_is_json_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "int8-weights", "--out", str(tmp_path / "a.json"), "--json"]
    assert main(["analyze", MODEL, f"{HERE}:impatient", *words]) == 130
    assert json.loads(capsys.readouterr().out)["notes"] == ["interrupted: 2 of 4 images were run"]


def test_ctrl_c_of_a_running_process_exits_with_130(tmp_path: Path) -> None:
    code = "import signal, torch\nfrom tests.cli.named_models import *\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where a shell runs this behind it
    code += "class Slow(Impatient):\n    def batches(self, images=None):\n"
    code += "        for number, batch in enumerate(sv.FeatureFidelity.batches(self, images)):\n"
    code += "            number == 1 and not self.needs_reference and signal.raise_signal(signal.SIGINT)\n"
    code += "            yield batch\n"
    code += "def slow(): return Slow(torch.rand(4, 3, SIDE, SIDE), batch_size=1)\n"
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    words = ["analyze", MODEL, "mine:slow", "--recipe", "int8-weights", "--out", str(tmp_path / "a.json")]
    places = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    completed = subprocess.run(
        [sys.executable, "-m", "sensitivity.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": places},
    )
    assert completed.returncode == 130, completed.stderr
    assert "interrupted: 1 of 4 images were run" in completed.stderr


def test_a_store_that_is_a_folder_is_told_before_the_model_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["analyze", f"{HERE}:broken", TASK, "--recipe", "int8-weights", "--out", str(tmp_path / "a.json")]
    assert main([*words, "--store", str(tmp_path)]) == 2
    assert f"cannot write {tmp_path}: it is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([MODEL, f"{HERE}:number"], "TASK 'tests.cli.named_models:number' returned int, which is no task"),
        ([f"{HERE}:number", TASK], "returned int. Return a torch module"),
        ([MODEL, TASK, "--layers", "stage9:*:*"], "stage9"),
    ],
)
def test_what_cannot_be_done_is_exit_code_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    assert main(["analyze", *words, "--recipe", "int8-weights", "--out", str(out), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    words = ["--recipe", "int8-weights", "--out", str(tmp_path / "file" / "a.json")]
    assert main(["analyze", f"{HERE}:broken", TASK, *words]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "message"),
    [("folder", "it is a folder"), (".", "it is a folder"), ("locked/a.json", "cannot write"), ("kept.json", "cannot")],
)
def test_a_place_for_the_study_is_tried_before_the_work(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "kept.json").write_text("", encoding="utf-8")
    refuse(monkeypatch, tmp_path / "locked", tmp_path / "kept.json")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["analyze", f"{HERE}:broken", TASK, "--recipe", "int8-weights", "--out", out]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def refuse(monkeypatch: pytest.MonkeyPatch, *places: Path) -> None:
    """Make these as a person without rights finds them; the one who runs the tests may be root, who has all."""
    allowed = os.access

    def access(path: str | Path, mode: int) -> bool:
        return Path(path).absolute() not in places and allowed(path, mode)

    monkeypatch.setattr(os, "access", access)


def test_images_that_a_function_does_not_return_are_missed_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--calibration", f"{HERE}:no_images", "--out", str(tmp_path / "a.json")]
    assert main(["analyze", MODEL, TASK, *words]) == 2
    assert f"IMAGES '{HERE}:no_images' returned NoneType, which is no images" in capsys.readouterr().err


def test_a_calibration_that_was_made_before_is_taken(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    assert main(["analyze", MODEL, TASK, "--calibration", f"{HERE}:calibration", "--out", str(out)]) == 0
    net, example = named_models.model()
    expected = sv.wrap(net.eval(), example).analyze(named_models.task(), calibration=named_models.images())
    assert drops(Study.load(out)) == drops(expected)


@pytest.mark.slow
def test_times_of_an_engine_are_kept_in_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    words = ["--calibration", IMAGES, "--latency", "openvino", "--out", str(out)]
    assert main(["analyze", MODEL, TASK, *words]) == 0
    latency = latency_of(Study.load(out), "int8")
    assert latency is not None
    assert latency.engine == "openvino"
    assert all(quantized > 0 and in_float > 0 for quantized, in_float in latency.layers.values())
    assert main(["protect", str(out), "--latency", "1000", "--json"]) == 0


@pytest.mark.slow
def test_a_recipe_without_an_engine_costs_the_times_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    recipes = ["--recipe", "thesis", "--recipe", "int8"]
    words = ["--calibration", IMAGES, "--latency", "openvino", "--out", str(out)]
    assert main(["analyze", MODEL, TASK, *recipes, *words]) == 1
    assert "the study was written and has no times of thesis on openvino" in capsys.readouterr().err
    study = Study.load(out)
    assert len(study.measurements) == 6
    assert latency_of(study, "thesis") is None
    assert latency_of(study, "int8") is not None


def test_an_engine_that_is_not_installed_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    words = ["--recipe", "int8-weights", "--latency", "openvino", "--out", str(tmp_path / "a.json")]
    assert main(["analyze", f"{HERE}:broken", TASK, *words]) == 2
    assert "pip install -e '.[openvino]'" in capsys.readouterr().err


def test_an_engine_that_times_no_layers_is_told_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "int8-weights", "--latency", "onnxruntime"]
    assert main(["analyze", f"{HERE}:broken", TASK, *words]) == 2
    assert "onnxruntime does not tell the time of single layers. Choose one of openvino," in capsys.readouterr().err


def test_recipes_by_name_are_those_of_the_front_door() -> None:
    presets = [sv.INT8, sv.INT8_AFFINE, sv.INT8_MINMAX, sv.INT8_WEIGHTS, sv.INT8_ACTIVATIONS]
    presets += [sv.INT4_WEIGHTS, sv.FP8, sv.THESIS]
    assert {preset.name: preset for preset in presets} == READY
    assert recipe("prune-0.5") == sv.Prune(0.5)
    assert recipe("prune-2:4") == sv.Prune("2:4")


def test_a_recipe_can_be_a_file(tmp_path: Path) -> None:
    own = sv.Recipe("mine", weights=sv.QuantSpec("int3", "per-channel"))
    (tmp_path / "mine.json").write_text(json.dumps(own.to_json()), encoding="utf-8")
    assert recipe(str(tmp_path / "mine.json")) == own


@pytest.mark.parametrize("text", ["int9", "prune-lots", "prune-2:x", "prune-1.5", "missing.json"])
def test_another_recipe_is_a_wrong_command_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["analyze", MODEL, TASK, "--recipe", text])
    assert repr(text) in capsys.readouterr().err
