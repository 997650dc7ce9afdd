"""A progress bar where a person is watching."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from sensitivity.sweep.run import Watcher


@contextlib.contextmanager
def watching(total: int, wanted: bool | None) -> Iterator[Watcher | None]:
    """A bar for the time of a ``with`` block.

    Args:
        total: Steps in all.
        wanted: Show it; None shows it in a terminal or a notebook only.
    """
    notebook = "ipykernel" in sys.modules
    if wanted is False or (wanted is None and not (notebook or sys.stderr.isatty())):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console() if notebook else Console(stderr=True)
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("sweep", total=total)

        def watch(done: int, _: int, layer: str) -> None:
            bar.update(row, completed=done, description=layer)

        yield watch
