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
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, ...], str]:
    """Folder, what is said to be written, and the story."""
    folder = tmp_path_factory.mktemp("work") / "results"
    out = io.StringIO()
    written = run_demo(folder, scenes=2, console=Console(file=out, width=80))
    return folder, written, out.getvalue()


@pytest.mark.slow
def test_the_demo_writes_the_files_it_names(told: tuple[Path, tuple[Path, ...], str]) -> None:
    folder, written, story = told
    assert {path.name for path in written} == {path.name for path in folder.iterdir()}
    assert all(path.name in story for path in written)
    assert str(folder) in story
    assert (folder / "dips.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_it_tells_is_what_it_wrote(told: tuple[Path, tuple[Path, ...], str]) -> None:
    folder, _, story = told
    study = sv.Study.load(folder / "study.json")
    table = pd.read_csv(folder / "layers.csv")
    assert len(table) == 2 * len(study.layers)
    assert set(study.recipes) == {"int8", "int4-weights"}
    assert f"{study.baseline.value:.2%}".replace("%", " %") in story
    lines = {line.split()[0]: line for line in story.splitlines() if line.strip()}
    for name in ("stage0:0:0", "stage4:2:6", "neck:5:0"):
        for drop in table[table["name"] == name]["drop"]:
            assert f"{round(drop, 2) + 0.0:.2f}" in lines[name].split()
    for recipe in study.recipes:
        dips = [name for name, flags in study.flags(recipe=recipe).items() if "dip" in flags]
        assert all(name in story for name in dips)


@pytest.mark.slow
def test_the_schemes_it_wrote_keep_the_promised_drop(told: tuple[Path, tuple[Path, ...], str]) -> None:
    folder, _, story = told
    for recipe in ("int8", "int4-weights"):
        scheme = sv.Scheme.load(folder / f"scheme-{recipe}.json")
        assert scheme.predicted_drop is not None
        assert scheme.predicted_drop <= MAX_DROP / 100
        assert [one.name for one in scheme.recipes] == [recipe]
        assert all(name in story for name in scheme.reasons)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "taken"
    file.touch()
    with pytest.raises(StoreError, match=r"cannot write to .*taken.*Give a folder of your own"):
        run_demo(file, scenes=1)


def test_no_scenes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="0 scenes cannot be scored"):
        run_demo(tmp_path / "results", scenes=0)
    assert not list(tmp_path.iterdir())
