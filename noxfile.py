"""The checks as sessions: ``nox -l`` lists them, ``nox -s lint`` runs one. ``.ci/run`` calls the same sessions.

Each session makes an environment of its own. ``nox --no-venv -s lint`` runs it in the environment that is active, in
which ``pip install -e '.[dev]'`` was run before; ``.ci/run`` does so.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "fast"]
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
QUICK_TESTS = (
    "test_architecture.py",
    "test_front_door.py",
    "test_installing.py",
    "test_habits.py",
    "records",
    "advise",
)
"""Seconds each: what is broken everywhere shows here first."""

FAMILY_TESTS = ("tests/tasks/connectors", "tests/examples/test_families.py", "tests/examples/test_norms.py")
"""Tests that need torchvision and the families' packages; elsewhere they skip."""

COVERED_ROOMS = ("records", "advise", "quantize", "layers")
"""Rooms whose own tests measure coverage. The other rooms' tests take minutes and are not traced."""
COVERED_FROM_ABOVE = ("search", "deploy/prepare/test_equalized.py")
"""Tests of records/results/ (tuned, diagnosis) and of layers/structure/channels.py, which need the rooms above."""
COVERAGE_FLOOR = 93


def install(session: nox.Session, extra: str) -> None:
    """Install the project with an extra, unless the session runs in an environment that somebody else made."""
    if session.venv_backend != "none":
        session.install("-e", f".[{extra}]")


def pytest(session: nox.Session, *arguments: str) -> None:
    """Run tests with this environment's pytest; what stands behind ``--`` on the command line is handed on."""
    session.run("python", "-m", "pytest", *arguments, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting, by ruff."""
    install(session, "test")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the package and of the tests, by mypy."""
    install(session, "test")
    session.run("mypy")


@nox.session
def fast(session: nox.Session) -> None:
    """The tests that take seconds."""
    install(session, "test")
    pytest(session, "-q", *(f"tests/{room}" for room in QUICK_TESTS))


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, as the README's command runs them."""
    install(session, "test")
    pytest(session)


@nox.session
def connectors(session: nox.Session) -> None:
    """The families of networks against their own packages, with the torch that torchvision is built for."""
    if session.venv_backend != "none":
        session.install("torch==2.14.1", "torchvision==0.29.1")
        families = "torchvision,ultralytics,transformers,timm,effdet,smp,openvino"
        session.install("-e", f".[{families}]", "pytest>=8.2", "pytest-xdist>=3.5", "hypothesis>=6.100", "scipy>=1.15")
    pytest(session, "-q", "-n", "0", "-W", "ignore", *FAMILY_TESTS)
    pages = ("tests/docs", "tests/notebooks")  # those that need a family's package; `tests` runs the others
    pytest(session, "-q", "-n", "0", "-W", "ignore", *pages, "-k", "known_family or 02_a_detector")


@nox.session
def doctests(session: nox.Session) -> None:
    """The examples in docstrings."""
    install(session, "test")
    pytest(session, "-q", "--doctest-modules", "sensitivity")


@nox.session
def coverage(session: nox.Session) -> None:
    """Coverage of the ground rooms by their own tests, with a floor."""
    install(session, "test")
    measured = (f"--cov=sensitivity.{room}" for room in COVERED_ROOMS)
    floor = ("--cov-report=term:skip-covered", f"--cov-fail-under={COVERAGE_FLOOR}")
    pytest(session, "-q", *measured, *floor, *(f"tests/{part}" for part in (*COVERED_ROOMS, *COVERED_FROM_ABOVE)))


@nox.session
def oldest(session: nox.Session) -> None:
    """All tests with the oldest dependencies that pyproject.toml allows."""
    # matplotlib 3.8 warns with a later pyparsing, and warnings are errors in tests
    session.install("-e", ".[test]", "pyparsing<3.3", *oldest_requirements())
    pytest(session)


@nox.session
def newest(session: nox.Session) -> None:
    """All tests with the newest dependencies that the package index has."""
    session.install("--upgrade", "--upgrade-strategy", "eager", "-e", ".[test]")
    pytest(session)


@nox.session
def docs(session: nox.Session) -> None:
    """The site in build/site: docs/, the examples' pages, the notebooks and the API; a broken link is an error."""
    if session.venv_backend != "none":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        session.install(*project["optional-dependencies"]["docs"])  # without the library: docstrings are read, not run
    session.run("mkdocs", "build", "--strict", "--site-dir", "build/site", env={"NO_MKDOCS_2_WARNING": "1"})


def oldest_requirements() -> list[str]:
    """Every lower bound of the base and test dependencies, pinned; of two bounds of one package the higher."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    bounds: dict[str, str] = {}
    for name, bound in (requirement.split(">=") for requirement in requirements if ">=" in requirement):
        bounds[name] = max(bound, bounds.get(name, "0"), key=lambda text: [int(part) for part in text.split(".")])
    return [f"{name}=={bound}" for name, bound in sorted(bounds.items())]
