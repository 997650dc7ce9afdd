"""Text in cells of CSV files, which spreadsheets would take for formulas."""

from __future__ import annotations

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a formula begins with, also in full width; spreadsheets run it when the file is opened."""


def to_cell(text: str) -> str:
    """Text with an apostrophe in front where a spreadsheet would run it; ``from_cell`` takes it off.

    Text that begins with an apostrophe gets a second one, so that no two texts become the same cell.
    """
    start = text.lstrip(" ")
    return f"'{text}" if start.startswith(FORMULA_STARTS) or text.startswith("'") else text


def from_cell(cell: str) -> str:
    """The text that ``to_cell`` made a cell of."""
    return cell.removeprefix("'")
