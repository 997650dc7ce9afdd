"""How the library is installed: every command that a message or a page shows works in a clone of this project."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import pytest

import sensitivity
from sensitivity.errors import how_to_install

INSTALL = re.compile(r"pip install (?:-e )?'?\.?([\w-]+)?\[([\w,-]+)\]'")


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def extras_asked_for(package: Path) -> dict[str, str]:
    """Extra to the place that names it, for every ``need(package, extra)`` and ``how_to_install(extra)``."""
    places = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                position = {"need": 1, "how_to_install": 0}.get(node.func.id)
                extra = node.args[position] if position is not None else None
                if isinstance(extra, ast.Constant):
                    places[str(extra.value)] = f"{path.name}:{node.lineno}"
    return places


def test_every_extra_that_a_message_names_is_one_of_this_project(repository: Path, project: dict[str, Any]) -> None:
    asked_for = extras_asked_for(repository / "sensitivity")
    assert {"onnx", "openvino", "tensorrt", "ray"} <= asked_for.keys()
    assert {extra: place for extra, place in asked_for.items() if extra not in project["optional-dependencies"]} == {}


def test_every_page_shows_an_install_command_that_works_in_a_clone(repository: Path, project: dict[str, Any]) -> None:
    pages = [page for pattern in ("*.md", "docs/**/*.md", "examples/*/README.md") for page in repository.glob(pattern)]
    commands = [(page.name, *match) for page in pages for match in INSTALL.findall(page.read_text(encoding="utf-8"))]
    assert len(commands) >= 5
    for page, name, extras in commands:
        assert name == "", f"{page} installs {name!r} from an index; this project is installed with '.[{extras}]'"
        assert set(extras.split(",")) <= project["optional-dependencies"].keys(), page


def test_a_message_about_a_missing_package_shows_such_a_command() -> None:
    assert INSTALL.findall(how_to_install("onnx")) == [("", "onnx")]


def test_the_distribution_is_not_named_like_another_project_on_the_package_index(project: dict[str, Any]) -> None:
    assert project["name"] == "layer-sensitivity"
    assert project["scripts"] == {"sensitivity": "sensitivity.cli.main:main"}


def test_the_version_is_written_once(repository: Path, project: dict[str, Any]) -> None:
    assert "version" not in project
    assert "version" in project["dynamic"]
    hatch = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
    assert hatch["version"]["path"] == "sensitivity/__init__.py"
    citation = (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert not re.search(r"^version:", citation, re.MULTILINE), "a second place to keep up to date"


def test_what_pip_installed_has_the_version_of_the_package(project: dict[str, Any]) -> None:
    try:
        installed = metadata(project["name"])
    except PackageNotFoundError:
        pytest.skip(f"{project['name']} is not installed here, only its sources are on the path")
    assert installed["Version"] == sensitivity.__version__


def test_the_command_runs_from_a_bare_interpreter() -> None:
    code = "import sys; from sensitivity.cli.main import main; sys.exit(main(['--version']))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == f"sensitivity {sensitivity.__version__}\n"
