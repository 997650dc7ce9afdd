from __future__ import annotations

import json
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.records.results.latency import Latency
from tests.cli import named_models


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pareto") / "study.json"
    wrapped = sv.wrap(*named_models.model())
    wrapped.analyze(named_models.task(), sv.INT4_WEIGHTS, workers=None).save(path)
    return path


@pytest.fixture(scope="module")
def tuned(study: Path) -> Path:
    path = study.with_name("tuned.json")
    wrapped = sv.wrap(*named_models.model())
    wrapped.tune(named_models.task(), size_bytes=10**6, candidates=[sv.INT4_WEIGHTS], engine=None).save(path)
    return path


def test_the_predicted_curve_is_that_of_protecting_the_worst_layers(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pareto", str(study), "--out", str(tmp_path / "pareto.png"), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    loaded = sv.Study.load(study)
    curve = plain["predicted"]["int4-weights"]
    assert [point["protected"] for point in curve] == [0, 1, 2, 3]
    for count in (1, 2):
        scheme = loaded.protect(top=count)
        assert curve[count]["drop"] == pytest.approx(scheme.predicted_drop, rel=1e-12)
        assert curve[count]["size_bytes"] == scheme.size_bytes
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_schemes_that_tune_chose_are_drawn_as_measured(
    study: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pareto", str(study), "--tuned", str(tuned), "--out", str(tmp_path / "pareto.svg"), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    record = sv.Tuned.load(tuned)
    chosen = [step for step in record.steps if step.chosen]
    assert [(point["size_bytes"], point["score"]) for point in measured] == [
        (step.size_bytes, pytest.approx(step.score)) for step in chosen
    ]
    assert chosen


def test_the_text_names_the_file_and_a_few_points(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pareto.png"
    assert main(["pareto", str(study), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "int4-weights, 0 layers protected: " in text
    assert text.endswith(f"wrote {out}\n")


def test_a_study_without_times_is_told_in_the_words_of_the_command_line(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pareto", str(study), "--against", "latency"]) == 2
    assert "has no times: sensitivity analyze --latency ENGINE adds them" in capsys.readouterr().err


def test_schemes_of_another_model_are_refused(
    study: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = json.loads(tuned.read_text(encoding="utf-8")) | {"model": "another"}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(plain), encoding="utf-8")
    assert main(["pareto", str(study), "--tuned", str(other), "--out", str(tmp_path / "pareto.png")]) == 2
    assert "only schemes of the same model and metric can be drawn together" in capsys.readouterr().err


def test_schemes_without_times_cannot_be_drawn_against_latency(
    study: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = sv.Study.load(study)
    times = {layer.name: (1e-4, 3e-4) for layer in loaded.layers}
    latency = Latency(loaded.model, sv.INT4_WEIGHTS, "openvino", 0.010, 0.018, times)
    path = tmp_path / "timed.json"
    loaded.with_latency(latency).save(path)
    out = str(tmp_path / "pareto.png")
    assert main(["pareto", str(path), "--against", "latency", "--out", out]) == 0
    assert "ms, drop" in capsys.readouterr().out
    assert main(["pareto", str(path), "--against", "latency", "--tuned", str(tuned), "--out", out]) == 2
    assert "has no times: tune measures them with --latency-s" in capsys.readouterr().err
