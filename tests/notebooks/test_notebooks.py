"""The notebooks are documentation: every cell runs, in order, from nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def cells(notebook: Path) -> list[str]:
    plain = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in plain["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, source in enumerate(cells(notebook), start=1):
        exec(compile(source, f"{notebook.name}, code cell {number}", "exec"), names)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
