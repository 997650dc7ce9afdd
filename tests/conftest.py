"""Fixtures that every test may use."""

from __future__ import annotations

import os
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one worker a core, one thread a worker

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

NO_SHARED_DATA = "no ../shared/data beside this checkout: real images and weights are needed for this test"


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(repository: Path) -> Path:
    """The real images, weights and tables beside the checkout; a test that needs them says so when it skips."""
    data = repository.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip(NO_SHARED_DATA)
    return data


@pytest.fixture(scope="session", autouse=True)
def _caches_of_their_own() -> Iterator[None]:
    """Tests neither read nor write the user's folder for caches."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENSITIVITY_CACHE_DIR", folder)
        yield


@pytest.fixture(autouse=True)
def _gradients_stay_as_they_are() -> Iterator[None]:
    """Whoever turns gradients off turns them on again; the next test would fail, and no one would know why."""
    yield
    torch = sys.modules.get("torch")
    assert torch is None or torch.is_grad_enabled(), "gradients are off after this test"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say on one line, below the list of what was skipped, how many tests wanted data that is not there."""
    yield
    reasons = [report.longrepr for report in terminalreporter.getreports("skipped")]
    count = sum(isinstance(reason, tuple) and NO_SHARED_DATA in reason[2] for reason in reasons)
    if count:
        were = "test was" if count == 1 else "tests were"
        terminalreporter.write_line(f"{count} {were} skipped because ../shared/data is not beside this checkout")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="write what tests produce to tests/goldens")


@pytest.fixture
def golden(request: pytest.FixtureRequest, repository: Path) -> Callable[[str, str], None]:
    """``golden(name, text)`` compares the text with the file tests/goldens/name, or writes it with --update-goldens."""

    def check(name: str, text: str) -> None:
        path = repository / "tests" / "goldens" / name
        if request.config.getoption("--update-goldens"):
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"no golden {name} yet: run pytest with --update-goldens, and read what it wrote"
        assert text == path.read_text(encoding="utf-8"), f"{name} changed: if that is meant, run with --update-goldens"

    return check
