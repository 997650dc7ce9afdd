"""Worker processes that are copies of this one: they have the model, its data and what was recorded, and share memory.

A forked process starts in milliseconds, imports nothing, and nothing has to be pickled for it to begin: no script needs
``if __name__ == "__main__":``, and models may be defined in a notebook. What it lacks are the threads of its parent. So
torch computes with one thread there, and whoever waits for a worker must be ready for one that never answers: a task
may call a library whose threads are gone.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import signal
import statistics
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

import torch

WORTH_S = 0.5  # seconds of work from which on starting workers pays: it takes a tenth of that
PATIENCE_S = 60.0  # that a worker may take beyond its work,
SLOWER_THERE = 100.0  # of which each piece may take so many times what the slowest took here

_inherited: dict[int, Any] = {}  # what workers find in their copy of this process
_keys = itertools.count()


def can_fork() -> bool:
    """Whether workers can be forked here: on Linux, from the main thread of a process that uses no GPU.

    macOS can fork, but its own libraries break in the copy.
    """
    return (
        sys.platform == "linux"
        and threading.current_thread() is threading.main_thread()
        and not multiprocessing.current_process().daemon  # which may have no children
        and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    )


@dataclass
class Pace:
    """How long pieces of work took in this process, each much like the ones to come.

    Attributes:
        seconds: Of each.
    """

    seconds: list[float] = field(default_factory=list)

    def is_worth(self, pieces: int) -> bool:
        """Whether so many more take long enough to start workers."""
        return bool(self.seconds) and statistics.mean(self.seconds) * pieces > WORTH_S

    def patience_s(self, pieces: int) -> float:
        """How long to wait for a worker that has so many to do."""
        return PATIENCE_S + SLOWER_THERE * pieces * max(self.seconds, default=0.0)


class ForkedWorkers:
    """Runs functions in copies of this process, which are made when the first function is submitted.

    Args:
        workers: How many.

    Attributes:
        workers: How many.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("fork"), initializer=_begin_as_worker
        )
        self._processes: list[BaseProcess] | None = None
        self._shared: list[int] = []

    def share(self, value: Any) -> Callable[[], Any]:
        """Let workers find a value; it is neither copied nor pickled. Call it before ``submit``."""
        key = next(_keys)
        _inherited[key] = value
        self._shared.append(key)
        return functools.partial(_find, key)

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Start a call."""
        if self._processes is not None:
            return self._pool.submit(fn, *args)
        other_children = set(multiprocessing.active_children())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: see above
            future = self._pool.submit(fn, *args)
        self._processes = [child for child in multiprocessing.active_children() if child not in other_children]
        return future

    def end(self) -> None:
        """End the workers at once, whatever they are doing: nothing of theirs is lost that was not taken."""
        for process in self._processes or ():
            process.kill()
        self._pool.shutdown(cancel_futures=True)
        for key in self._shared:
            _inherited.pop(key, None)


def _find(key: int) -> Any:
    return _inherited[key]


def _begin_as_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent ends them
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a progress bar's lock may be held in this copy for ever
    torch.set_num_threads(1)
