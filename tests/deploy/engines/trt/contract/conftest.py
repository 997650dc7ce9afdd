"""The bindings of each TensorRT version. In CI (the variable CI is set) their absence is a failure, not a skip."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.engines.trt.contract import kit as kits


@pytest.fixture(scope="session", params=kits.PACKAGES, ids=lambda version: f"TensorRT-{version}")
def kit(request: pytest.FixtureRequest) -> kits.Kit:
    cache = request.config.cache
    assert cache is not None
    try:
        return kits.kit(request.param, Path(cache.mkdir("tensorrt-bindings")))
    except kits.UnavailableError as error:
        if os.environ.get("CI"):
            pytest.fail(f"these tests may not be left out in CI: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def scenario(kit: kits.Kit, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """``scenario(name)``: what a scenario of ``drive.py`` returned, its error, the calls that reached the mock."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    return kits.played(kit, shared / f"tensorrt-{kit.version}")
