"""A table as a CSV file that a spreadsheet opens without running what it holds."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from sensitivity.records.storage.spreadsheet import to_cell

_NUMBERS = "%.8g"  # whole numbers stay whole, and no digit is noise


def write_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table without its index; text that a spreadsheet would take for a formula gets an apostrophe in front.

    Args:
        table: Not changed.
        path: Where to.

    Raises:
        OSError: If the file cannot be written.
    """
    safe = table.copy(deep=False)
    for place, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe.isetitem(place, table.iloc[:, place].map(_plain, na_action="ignore").to_numpy())
    safe.columns = pd.Index([_plain(name) for name in table.columns])
    safe.to_csv(path, index=False, float_format=_NUMBERS)


def _plain(cell: Any) -> Hashable:
    return to_cell(cell) if isinstance(cell, str) else cell
