"""Fixtures of the task tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.made_scenes import ANNOTATIONS, SIZES, Scenes, write_scenes


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    """Three images; the second has no annotation, no image has a hat."""
    return write_scenes(tmp_path, SIZES, ANNOTATIONS)
