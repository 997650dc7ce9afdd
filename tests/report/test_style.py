"""Pictures and pages take their colours and text sizes from one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sensitivity.report

REPORT = Path(sensitivity.report.__file__).parent
SOURCES = [*(REPORT / "figures").glob("*.py"), *(REPORT / "page").glob("*.*")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_picture_and_no_page_has_a_colour_or_a_text_size_of_its_own(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b(?=[\"';])", text)
    assert not re.findall(r"\b(?:fontsize|labelsize|ylabel_size)=[0-9.]+|\"fontsize\": [0-9.]+", text)
