"""The examples of the families: five lines each, and what they print, where the family is installed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples" / "05_families"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))
MOST_LINES = 5


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_family_takes_at_most_five_lines_and_says_how_trained_weights_are_loaded(script: str) -> None:
    tree = ast.parse((FOLDER / script).read_text(encoding="utf-8"))
    lines = {
        line
        for statement in tree.body[1:]
        if not isinstance(statement, ast.Import | ast.ImportFrom)
        for line in range(statement.lineno, (statement.end_lineno or 0) + 1)
    }
    assert 0 < len(lines) <= MOST_LINES
    assert "For trained ones: " in " ".join((ast.get_docstring(tree) or "").split())


def test_there_is_an_example_of_every_family() -> None:
    from sensitivity.tasks.connectors.registry import families

    assert {script.partition("_")[0] for script in SCRIPTS} >= {"torchvision", "ultralytics", "transformers", "effdet"}
    assert {script.partition("_")[0] for script in SCRIPTS} <= set(families())


def arguments_of(script: str, photographs: list[Path], shared_data: Path, folder: Path) -> list[Path]:
    images = photographs[0].parent
    if "classifier" in script:
        for number, path in enumerate(photographs):
            (folder / "classes" / str(number % 4)).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "classes" / str(number % 4))
        return [folder / "classes"]
    if script in ("torchvision_segmenter.py", "smp_segmenter.py"):
        (folder / "labels").mkdir()
        for path in photographs:
            grey = np.asarray(Image.open(path).convert("L"), np.int64)
            Image.fromarray((grey * 3 // 256).astype(np.uint8)).save(folder / "labels" / f"{path.stem}.png")
        return [images, folder / "labels"]
    return [
        shared_data / "tiny_coco" / "val2017",
        shared_data / "tiny_coco" / "annotations" / "instances_val2017.json",
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_example_of_a_family_measures_its_stem(script: str, shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError))
    package = script.partition("_")[0].replace("smp", "segmentation_models_pytorch")
    pytest.importorskip(package, reason=f"{package} is not installed")
    (tmp_path / "images").mkdir()
    photographs = [
        Path(shutil.copy(path, tmp_path / "images"))
        for path in sorted((shared_data / "tiny_coco" / "val2017").glob("*.jpg"))[:4]
    ]
    command = [sys.executable, "-W", "ignore", str(FOLDER / script)]
    command += map(str, arguments_of(script, photographs, shared_data, tmp_path))
    root = str(FOLDER.parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "measured" in result.stdout
