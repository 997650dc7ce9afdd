"""A small model, and where its store is."""

from __future__ import annotations

from pathlib import Path

import pytest

import sensitivity as sv
from tests.sweep.storage.stored_sweeps import Net, images


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.jsonl"


@pytest.fixture
def wrapped() -> sv.Wrapped:
    return sv.wrap(Net().eval(), images(1)[0])
