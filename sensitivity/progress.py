"""A progress bar where a person is watching."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

Watcher: TypeAlias = Callable[[int, int, str], None]
"""Told of progress: images of all variants done, in all, and which layer is running, with the worst so far."""


@contextlib.contextmanager
def watching(total: int | None, wanted: bool | None) -> Iterator[Watcher | None]:
    """A bar for the time of a ``with`` block.

    Args:
        total: Steps in all; None where that is not known before the end.
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


def counted(
    runs: Iterable[tuple[Callable[[], Any], int]], watch: Watcher | None, total: int | None, *, in_images: bool
) -> Iterator[tuple[Callable[[], Any], int]]:
    """The same batches, each told to a watcher when it is done.

    Args:
        runs: One item a batch: a function that runs it, and the number of its images.
        watch: Told of progress; None tells nobody.
        total: Steps in all, or None.
        in_images: A step is an image; otherwise a batch.
    """
    done = 0
    for run, count in runs:
        yield run, count
        done += count if in_images else 1
        if watch is not None:
            watch(done, total or 0, "calibration")
