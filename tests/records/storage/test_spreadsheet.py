"""Cells of CSV files: no formula, and the same text after reading."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.records.storage.spreadsheet import from_cell, to_cell


@pytest.mark.parametrize("text", ["+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "  @a", "＝1", "'=1"])
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    assert to_cell(text) == f"'{text}"
    assert from_cell(to_cell(text)) == text


@pytest.mark.parametrize("text", ["", "stage3:9:0", "a=b", "1-2", "x @ w", "–"])
def test_other_text_is_a_cell_as_it_is(text: str) -> None:
    assert to_cell(text) == text
    assert from_cell(text) == text


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(alphabet="'=+-@ \t\nab1"))
def test_every_text_comes_back(text: str) -> None:
    assert from_cell(to_cell(text)) == text
    assert not to_cell(text).strip(" ").startswith(("=", "+", "-", "@"))
