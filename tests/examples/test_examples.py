"""The examples, run as their readers run them: the files they write and the numbers they print."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sensitivity as sv

TOLERANCE = 5e-4  # another CPU's convolutions may move one detection


def run(repository: Path, example: str, *arguments: str | Path) -> str:
    """What the example prints; warnings are errors there too, but for what is true of a CPU without VNNI."""
    warnings = ("-W", "error", "-W", "ignore:on this machine large sums of 8-bit products saturate:UserWarning")
    command = [sys.executable, *warnings, str(repository / "examples" / example / "run.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def coco(shared_data: Path) -> list[str | Path]:
    """Score on tiny val, calibrate on tiny train."""
    folder = shared_data / "tiny_coco"
    annotations = {split: folder / "annotations" / f"instances_{split}.json" for split in ("val2017", "train2017")}
    return [
        *("--images", folder / "val2017", "--annotations", annotations["val2017"]),
        *("--calibration-images", folder / "train2017", "--calibration-annotations", annotations["train2017"]),
    ]


@pytest.mark.slow
def test_the_detector_example_tells_what_a_sweep_would_cost(
    repository: Path, shared_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cv2", reason="the detector example resizes with OpenCV (extra: examples)")
    weights = shared_data / "weights" / "yolo_fastest_1_1_xl.safetensors"
    arguments = ["--model", "yolo-fastest-xl", "--weights", weights, *coco(shared_data), "--out", tmp_path]
    printed = run(repository, "01_coco_detector", *arguments, "--limit", "6", "--explain")
    assert "168 variants on 6 images: about" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "weights", "expected", "layers", "exits", "engine"),
    [
        ("yolo-fastest-xl", "yolo_fastest_1_1_xl", (0.2290, 0.4170), "stage1:0:*", 24, "openvino"),
        ("fastestdet", "fastestdet", (0.1551, 0.2834), "backbone.first_conv", 1, "none"),
    ],
)
def test_the_detector_example_goes_from_real_images_to_a_measured_scheme(
    model: str,
    weights: str,
    expected: tuple[float, float],
    layers: str,
    exits: int,
    engine: str,
    repository: Path,
    shared_data: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("cv2", reason="the detector example resizes with OpenCV (extra: examples)")
    weights_file = shared_data / "weights" / f"{weights}.safetensors"
    arguments = ["--model", model, "--weights", weights_file, *coco(shared_data), "--out", tmp_path, "--engine", engine]
    printed = run(repository, "01_coco_detector", *arguments, "--layers", layers, "--protect", "1")
    match = re.search(r"unperturbed, calibrated on 50 images: AP ([\d.]+), AP50 ([\d.]+)", printed)
    assert match is not None
    assert [float(number) for number in match.groups()] == pytest.approx(expected, abs=TOLERANCE)
    assert len(re.findall(r"\bexit no-activation\b", printed)) == exits

    study = sv.Study.load(tmp_path / "study.json")
    assert study.baseline.metrics["AP50"] == pytest.approx(expected[1], abs=TOLERANCE)
    assert {measurement.status for measurement in study.measurements} == {"measured"}
    with (tmp_path / "layers.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(study.layers)
    assert (tmp_path / "layers.md").read_text(encoding="utf-8").startswith("| layer")
    for picture in ("dips.png", "diagnosis.png", "path.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    diagnosis, tuned = sv.Diagnosis.load(tmp_path / "diagnosis.json"), sv.Tuned.load(tmp_path / "tuned.json")
    assert {finding.layer for finding in diagnosis} == {measurement.layer for measurement in study.measurements}
    assert tuned.met
    assert (tuned.engine is None) == (engine == "none")
    assert tuned.model in (tmp_path / "report.html").read_text(encoding="utf-8")
    for recipe in (sv.INT8_MINMAX, sv.INT4_WEIGHTS):
        scheme = sv.Scheme.load(tmp_path / f"scheme-{recipe.name}.json")
        assert scheme.recipes == (recipe,)
        unmeasured = len(study.layers) - len(study.of_recipe(recipe.name))
        assert len(scheme.reasons) == unmeasured + 1
        assert f"{recipe.name}, {unmeasured + 1} of {len(study.layers)} layers protected" in printed
    assert all(f"{recipe.name}, nothing protected" in printed for recipe in (sv.INT8, sv.INT8_AFFINE))


@pytest.mark.slow
def test_the_segmentation_example_reaches_the_measured_mean_iou(
    repository: Path, shared_data: Path, tmp_path: Path
) -> None:
    weights_file = shared_data / "weights" / "espnetv2_s1_0_voc384.safetensors"
    arguments = ["--weights", weights_file, *coco(shared_data), "--out", tmp_path, "--layers", "base_net.level1"]
    printed = run(repository, "02_semantic_segmentation", *arguments)
    match = re.search(r"on 50 images in \d+ s\nunperturbed: mIoU ([\d.]+)", printed)
    assert match is not None
    assert float(match[1]) == pytest.approx(0.4915, abs=TOLERANCE)
    assert len(sv.Study.load(tmp_path / "study.json").measurements) == 1
    assert (tmp_path / "dips.png").is_file()
    assert (tmp_path / "layers.csv").is_file()


def test_a_missing_folder_ends_an_example_in_one_line(repository: Path, shared_data: Path, tmp_path: Path) -> None:
    example = repository / "examples" / "02_semantic_segmentation" / "run.py"
    weights_file = shared_data / "weights" / "espnetv2_s0_5_voc384.safetensors"
    arguments = ["--weights", weights_file, "--width", "s0.5", *coco(shared_data), "--out", tmp_path]
    arguments[arguments.index("--images") + 1] = "nowhere"
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, str(example), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no folder of images at nowhere")


@pytest.fixture(scope="module")
def thesis(repository: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the thesis example prints, and the folder that it writes to."""
    folder = tmp_path_factory.mktemp("thesis")
    return run(repository, "03_thesis", "--tables", shared_data / "thesis", "--out", folder), folder


def test_the_thesis_example_draws_five_plots(thesis: tuple[str, Path]) -> None:
    _, folder = thesis
    assert sorted(path.name for path in folder.glob("*.png")) == ["l0.png", "l1.png", "l2.png", "xl0.png", "xl1.png"]


def test_the_page_on_the_thesis_holds_what_the_example_finds(thesis: tuple[str, Path], repository: Path) -> None:
    printed, folder = thesis
    tables = re.findall(r"(?:^\|.*\n)+", (folder / "findings.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    page = (repository / "docs" / "concepts" / "thesis.md").read_text(encoding="utf-8")
    assert len(tables) == 4
    assert all(table in page and table.strip() in printed for table in tables)


def test_the_thesis_example_computes_the_drops_that_its_tables_hold(
    thesis: tuple[str, Path], shared_data: Path
) -> None:
    printed, _ = thesis
    worst = {}
    for model in ("l0", "l1", "l2", "xl0", "xl1"):
        with (shared_data / "thesis" / f"{model}.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["exists"] == "True"]
        worst[model.upper()] = max(float(row["drop_all"]) for row in rows)
    drops_printed = re.findall(r"^\| (X?L\d) \| ([\d.]+) \| [\d.]+ / ", printed, flags=re.MULTILINE)
    assert {model: float(drop) for model, drop in drops_printed} == {
        m: pytest.approx(d, abs=0.051) for m, d in worst.items()
    }


def test_the_tune_example_names_the_layer_that_was_spoilt_and_cures_or_protects_it(
    repository: Path, tmp_path: Path
) -> None:
    printed = run(repository, "04_tune", "--out", tmp_path)
    assert re.search(r"^  layers:0:2  .* of the damage\); uneven channels", printed, flags=re.MULTILINE)
    assert "bars meets a drop of at most 1 point" in printed
    tuned = sv.Tuned.load(tmp_path / "tuned.json")
    assert tuned.met
    # Training ends a little differently on other CPUs: there affine ranges alone may just hold the point.
    assert tuned.in_float in ((), ("layers:0:2",))
    assert tuned.steps[0].what == "int8-minmax for all layers"
    assert tuned.steps[0].score < tuned.score.value
    for name in ("diagnosis.png", "path.png", "path.html"):
        assert (tmp_path / name).stat().st_size > 0


def test_every_example_has_a_page_that_the_documentation_links(repository: Path) -> None:
    index = (repository / "docs" / "concepts" / "index.md").read_text(encoding="utf-8")
    for example in sorted((repository / "examples").iterdir()):
        if example.is_dir():
            assert (example / "README.md").is_file()
            assert f"../../examples/{example.name}/README.md" in index
