"""The files at the root: what CI, hooks and sessions call exists, and nothing names a place to download from."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest


def sessions(repository: Path) -> set[str]:
    """Names of the functions that noxfile.py makes sessions of, read without nox."""
    tree = ast.parse((repository / "noxfile.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if any(ast.unparse(mark) == "nox.session" for mark in node.decorator_list)}


def called_sessions(text: str) -> list[str]:
    """Every session that a command line in a text asks nox for."""
    lists = re.findall(r"nox(?: --no-venv)?(?: -[a-z])* -s ([a-z ]+)", text)
    return [name for names in lists for name in names.split()]


def test_the_checks_call_sessions_that_exist(repository: Path) -> None:
    called = called_sessions((repository / ".ci" / "run").read_text(encoding="utf-8"))
    assert {"lint", "types", "doctests", "coverage"} <= set(called)
    assert set(called) <= sessions(repository)


def test_the_workflows_call_sessions_that_exist(repository: Path) -> None:
    text = (repository / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
    called = {*called_sessions(text), *re.findall(r"session: (\w+)", text)}
    assert {"oldest", "newest", "coverage"} <= called
    assert called <= sessions(repository)


def test_the_workflows_run_every_python_that_the_project_claims(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    claimed = {line.rsplit(" ", 1)[1] for line in project["classifiers"] if "Python :: 3." in line}
    workflow = (repository / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
    assert set(re.findall(r'python: "(3\.\d+)"', workflow)) == claimed


def test_hooks_download_nothing(repository: Path) -> None:
    hooks = (repository / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: (\S+)", hooks) == ["local"]
    assert "language: python" not in hooks
    assert len(re.findall(r"language: system", hooks)) == len(re.findall(r"- id:", hooks))


def test_every_room_that_coverage_measures_has_tests(repository: Path) -> None:
    tree = ast.parse((repository / "noxfile.py").read_text(encoding="utf-8"))
    [rooms] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COVERED_ROOMS"
    ]
    assert rooms
    for room in rooms:
        assert (repository / "sensitivity" / room).is_dir(), room
        assert (repository / "tests" / room).is_dir(), room


def test_the_script_of_the_checks_is_valid_bash(repository: Path) -> None:
    run = subprocess.run(
        ["bash", "-n", str(repository / ".ci" / "run")], capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("benchmark", sorted(Path(__file__).parents[1].glob("benchmarks/*.py")), ids=lambda p: p.stem)
def test_everything_that_a_benchmark_imports_exists(benchmark: Path) -> None:
    for node in ast.walk(ast.parse(benchmark.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("sensitivity", "benchmarks")):
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                if not hasattr(module, name):
                    importlib.import_module(f"{node.module}.{name}")


def test_every_benchmark_that_a_page_names_exists(repository: Path) -> None:
    pages = [repository / "README.md", *repository.glob("docs/**/*.md"), *repository.glob("examples/*/README.md")]
    named = {name for page in pages for name in re.findall(r"benchmarks[/.](\w+)", page.read_text(encoding="utf-8"))}
    assert len(named) >= 8
    files = {path.stem for path in (repository / "benchmarks").glob("*.py")}
    packages = {path.parent.name for path in (repository / "benchmarks").glob("*/__main__.py")}
    assert named - files - packages == set()


def test_the_checks_may_be_executed(repository: Path) -> None:
    assert os.access(repository / ".ci" / "run", os.X_OK)
