from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import sensitivity as sv
from sensitivity.demo.run import MAX_DROP, run_demo
from sensitivity.errors import StoreError, TaskError


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, ...], str]:
    """Folder, what is said to be written, and the story."""
    folder = tmp_path_factory.mktemp("work") / "results"
    out = io.StringIO()
    written = run_demo(folder, scenes=3, console=Console(file=out, width=80))
    return folder, written, out.getvalue()


@pytest.mark.slow
def test_the_demo_writes_the_files_it_names(demo_run: tuple[Path, tuple[Path, ...], str]) -> None:
    folder, written, story = demo_run
    assert {path.name for path in written} == {path.name for path in folder.iterdir()}
    assert all(path.name in story for path in written)
    assert str(folder) in story
    assert (folder / "dips.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_it_tells_is_what_it_wrote(demo_run: tuple[Path, tuple[Path, ...], str]) -> None:
    folder, _, story = demo_run
    study = sv.Study.load(folder / "study.json")
    table = pd.read_csv(folder / "layers.csv")
    assert len(table) == len(study.layers)
    assert set(study.recipes) == {"int8"}
    assert f"{study.baseline.value:.2%}".replace("%", " %") in story
    lines = {line.split()[0]: line for line in reversed(story.splitlines()) if line.strip()}
    for name in ("stage0:0:0", "stage4:2:6", "neck:5:0"):
        for drop in table[table["name"] == name]["drop"]:
            assert f"{round(drop, 2) + 0.0:.2f}" in lines[name].split()
    diagnosis = sv.Diagnosis.load(folder / "diagnosis.json")
    assert diagnosis.hurt
    assert all(f"{finding.output_db:.1f}" in story for finding in diagnosis.hurt)


@pytest.mark.slow
def test_int8_breaks_the_network_and_what_tune_finds_keeps_the_promised_drop(
    demo_run: tuple[Path, tuple[Path, ...], str],
) -> None:
    folder, _, story = demo_run
    tuned = sv.Tuned.load(folder / "tuned.json")
    everywhere = tuned.steps[0]
    assert everywhere.what == "int8 for all layers"
    assert everywhere.drop is not None
    assert everywhere.drop > 0.05, "five points"
    assert tuned.met
    assert tuned.drop <= MAX_DROP / 100
    assert 0 < len(tuned.in_float) < 10
    assert ", ".join(tuned.in_float) in " ".join(story.split())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "taken"
    file.touch()
    with pytest.raises(StoreError, match=r"cannot write to .*taken.*Give a folder of your own"):
        run_demo(file, scenes=1)


def test_no_scenes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="0 scenes cannot be scored"):
        run_demo(tmp_path / "results", scenes=0)
    assert not list(tmp_path.iterdir())
