"""A progress bar where a person is watching, and a line now and then where the output goes to a log."""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, TypeAlias

Watcher: TypeAlias = Callable[[int, int, str], None]
"""Told of progress: images of all variants done, in all, and which layer is running, with the worst so far."""

LINE_EVERY_S = 30.0
"""Without a terminal: a job that takes less says nothing."""


@contextlib.contextmanager
def watching(total: int | None, wanted: bool | None) -> Iterator[Watcher | None]:
    """A bar for the time of a ``with`` block; without a terminal or a notebook, a line on stderr every half minute.

    Args:
        total: Steps in all; None where that is not known before the end.
        wanted: True shows the bar, False nothing; None the bar in a terminal or a notebook, elsewhere the lines.
    """
    notebook = "ipykernel" in sys.modules
    if wanted is False:
        yield None
        return
    if wanted is None and not (notebook or sys.stderr.isatty()):
        yield _lines(total)
        return
    with _in_notebook(total) if notebook else _in_terminal(total) as watch:
        yield watch


@contextlib.contextmanager
def _in_terminal(total: int | None) -> Iterator[Watcher]:
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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("sweep", total=total)

        def watch(done: int, _: int, layer: str) -> None:
            bar.update(row, completed=done, description=layer)

        yield watch


UPDATE_EVERY_S = 0.2
"""Seconds between two updates in a notebook: each is a message to the browser."""


@contextlib.contextmanager
def _in_notebook(total: int | None) -> Iterator[Watcher]:
    """A bar of plain HTML: rich's needs ipywidgets, and prints a warning in its place where that is not installed."""
    page = import_module("IPython.display")  # there wherever ipykernel is, and not installed where types are checked
    started = last_update = time.monotonic()
    state = (0, "")

    def shown() -> Any:
        done, layer = state
        return page.HTML(_bar_html(done, total, layer, seconds=time.monotonic() - started))

    def watch(done: int, _: int, layer: str) -> None:
        nonlocal state, last_update
        state = (done, layer)
        if time.monotonic() - last_update >= UPDATE_EVERY_S:
            handle.update(shown())
            last_update = time.monotonic()

    handle = page.display(shown(), display_id=True)
    try:
        yield watch
    finally:
        handle.update(shown())


def _bar_html(done: int, total: int | None, layer: str, *, seconds: float) -> str:
    """A bar with the steps done, the time, and which layer is running."""
    share = f' value="{done}" max="{total}"' if total else ""
    steps = f"{done}/{total}" if total else str(done)
    return f"<progress{share}></progress> <code>{steps}, {seconds:.0f} s</code> {html.escape(layer)}"


def _lines(total: int | None) -> Watcher:
    """Writes where the job stands to stderr, at most every ``LINE_EVERY_S`` seconds."""
    started = written = time.monotonic()

    def watch(done: int, _: int, layer: str) -> None:
        nonlocal written
        now = time.monotonic()
        if now - written >= LINE_EVERY_S:
            written = now
            of_all = f"{done}" if total is None else f"{done} of {total}"
            print(f"{of_all} after {now - started:.0f} s: {layer.strip()}", file=sys.stderr, flush=True)

    return watch


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
