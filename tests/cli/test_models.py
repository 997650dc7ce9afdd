"""MODEL, TASK and IMAGES: families, data sets, limits and devices."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.tasks.connectors import registry
from tests.cli import named_models
from tests.tasks.made_scenes import annotation, write_scenes
from tests.testing import made_detectors

HERE = "tests.cli.named_models"
MODEL, TASK = f"{HERE}:model", f"{HERE}:task"
SWEEP = ["--recipe", "int4-weights", "--no-intervals"]


@pytest.fixture
def detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry._FAMILIES, "_values", dict(registry._FAMILIES._values))
    sv.register_connector("mine", made_detectors.connect)


def test_a_limit_uses_the_first_images_alone(tmp_path: Path) -> None:
    out = tmp_path / "study.json"
    assert main(["analyze", MODEL, TASK, *SWEEP, "--limit", "3", "--out", str(out)]) == 0
    study = sv.Study.load(out)
    images = torch.rand(4, 3, named_models.SIDE, named_models.SIDE, generator=torch.Generator().manual_seed(2))
    expected = sv.wrap(*named_models.model()).analyze(sv.FeatureFidelity(images[:3]), sv.INT4_WEIGHTS, intervals=False)
    assert study.baseline.images == 3
    assert [row.metrics for row in study.measurements] == [row.metrics for row in expected.measurements]


def test_a_device_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", MODEL, TASK, *SWEEP, "--device", "nowhere"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("sensitivity: --device nowhere: torch cannot compute there: ")
    assert text.endswith("Give --device cpu.\n")
    assert text.count("\n") == 1


@pytest.mark.parametrize("device", ["cuda:7", "mps"])
def test_a_device_that_torch_lacks_here_is_told_in_one_short_line(
    device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.device_count() > 7 or torch.backends.mps.is_available():
        pytest.skip("torch has it here")
    assert main(["analyze", MODEL, TASK, *SWEEP, "--device", device]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"sensitivity: --device {device}: torch cannot compute there: ")
    assert text.endswith(". Give --device cpu.\n")
    assert text.count("\n") == 1
    assert len(text) < 250  # torch lists all its backends behind the first sentence


def test_the_model_runs_on_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    devices: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: devices.append(device) or module)
    assert main(["analyze", MODEL, TASK, *SWEEP, "--device", "cpu", "--out", str(tmp_path / "a.json")]) == 0
    assert devices == ["cpu"]


@pytest.mark.parametrize("family", ["torchvision", "timm", "ultralytics", "transformers", "effdet", "smp"])
def test_a_family_that_is_not_installed_names_its_extra(
    family: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = "segmentation_models_pytorch" if family == "smp" else family
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["layers", f"{family}:some_network"]) == 2
    text = capsys.readouterr().err
    assert f"pip install -e '.[{family}]'" in text
    assert text.count("\n") == 1


def test_a_family_that_there_is_not_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "yolo:yolo11n"]) == 2
    error = capsys.readouterr().err
    assert "there is no module 'yolo' for MODEL 'yolo:yolo11n'" in error
    assert "or give FAMILY:NAME with a family of torchvision, timm, ultralytics" in error


def test_an_unknown_connector_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", MODEL, "--connector", "mine"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("sensitivity: --connector mine: no such family. Choose one of torchvision, ")


@pytest.mark.usefixtures("detectors")
@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        (
            "dataset:images:labels.json",
            ["--input", "1x3x32x32"],
            "or its family with --connector",
        ),
        ("dataset:", ["--connector", "mine"], "is not of the form dataset:IMAGES[:LABELS]"),
        ("dataset:a:b:c", ["--connector", "mine"], "is not of the form dataset:IMAGES[:LABELS]"),
        ("dataset:images", ["--connector", "mine"], "lacks LABELS, a COCO annotation file for detection"),
    ],
)
def test_data_that_does_not_fit_is_told_in_the_words_of_the_command_line(
    task: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", f"{HERE}:detector", task, *SWEEP, *words]) == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1


@pytest.mark.usefixtures("detectors")
def test_a_detector_of_a_named_family_is_scored_on_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(40, 48), (32, 32), (64, 40)]
    scenes = write_scenes(tmp_path, sizes, [annotation(1, 10, 8, (4.0, 4.0, 20.0, 16.0))])
    connected = sv.connect(named_models.detector(), family="mine")
    task = connected.task(scenes.images, scenes.annotations)
    with torch.no_grad():
        predictions = next(task.predict(connected.model, batch) for batch in task.batches())
    boxes = [(10 + image, box) for image, each in enumerate(predictions) for box in each["boxes"][:3]]
    objects = [
        annotation(n + 1, image, (8, 3, 5)[n % 3], (x, y, right - x, bottom - y))
        for n, (image, (x, y, right, bottom)) in enumerate((image, box.tolist()) for image, box in boxes)
    ]
    scenes.edit(lambda plain: plain.update(annotations=objects))
    monkeypatch.chdir(tmp_path)
    words = ["--connector", "mine", "--calibration", "dataset:images:annotations.json", "--limit", "2"]
    assert main(["analyze", f"{HERE}:detector", "dataset:images:annotations.json", *words]) == 0
    wrapped = sv.wrap(connected.model, connected.example_inputs)
    wrapped.calibrate(connected.task(scenes.images, scenes.annotations), sv.INT8)
    expected = wrapped.analyze(connected.task(scenes.images, scenes.annotations, limit=2), sv.INT8)
    study = sv.Study.load("study.json")
    assert study.baseline.value == expected.baseline.value > 0.0
    assert study.baseline.images == 2
    assert [row.metrics["AP"] for row in study.measurements] == [row.metrics["AP"] for row in expected.measurements]
