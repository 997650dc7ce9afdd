"""The notebooks are documentation: every cell runs, in order, from nothing, and imports what a reader may import."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
NEEDS = {"02_a_detector": "torchvision"}
"""Packages that the test environment lacks. `nox -s connectors` has them, and runs these notebooks too."""

OPEN_MODULES = re.compile(
    r"sensitivity(\.(contracts|errors|demo\.network|demo\.scenes|zoo(\.\w+)?|testing\.\w+))?|sensitivity\.demo"
)


def cells(notebook: Path) -> list[str]:
    plain = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in plain["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if notebook.stem in NEEDS:
        pytest.importorskip(NEEDS[notebook.stem])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, source in enumerate(cells(notebook), start=1):
        exec(compile(source, f"{notebook.name}, code cell {number}", "exec"), names)


def imported(source: str) -> set[str]:
    """Modules and names that a cell imports, with their whole paths."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module)}
    return names


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_only_what_is_meant_for_users(notebook: Path) -> None:
    own_names = {name for source in cells(notebook) for name in imported(source) if name.startswith("sensitivity")}
    assert own_names
    assert {name for name in own_names if not OPEN_MODULES.fullmatch(name)} == set()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_saved_with_what_its_cells_show(notebook: Path) -> None:
    plain = json.loads(notebook.read_text(encoding="utf-8"))
    code = [cell for cell in plain["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run it from the top"
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}, "no error"
    assert outputs
    assert re.findall(r"/(?:root|tmp|home)/", json.dumps(plain)) == [], "paths of one machine"


def test_the_site_and_the_session_of_the_families_have_every_notebook() -> None:
    site = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) >= 5
    assert [book.stem for book in NOTEBOOKS if f"notebooks/{book.stem}.md" not in site] == []
    session = (REPOSITORY / "noxfile.py").read_text(encoding="utf-8").split("def connectors(")[1].split("@nox")[0]
    assert [book for book in NEEDS if book not in session] == []
