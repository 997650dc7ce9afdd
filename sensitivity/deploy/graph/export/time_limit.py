"""A limit on the time that an export takes: exporters can run for hours on a model that they do not finish."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

from sensitivity.errors import ExportError


class TimeIsUpError(BaseException):
    """Raised when the time is up; no Exception, since exporters catch those and try something else."""


@contextlib.contextmanager
def within_seconds(limit_s: float | None) -> Iterator[None]:
    """Stop what a ``with`` block does after some seconds, in whichever thread it runs.

    Another thread raises the error in this one between two steps of Python code; a function in C is not interrupted.
    A signal would be, but what exporters load can leave a process in which any signal ends it.

    Args:
        limit_s: Seconds; None sets no limit.

    Raises:
        ExportError: If the limit is not positive.
        TimeIsUpError: When the time is up, from wherever Python code is then.
    """
    if limit_s is None:
        yield
        return
    if not limit_s > 0:
        raise ExportError(f"export_limit_s={limit_s}: give seconds above 0, or None for no limit.")
    thread, deciding, ended = threading.get_ident(), threading.Lock(), False

    def ring() -> None:
        with deciding:  # either the block has ended, or it is stopped before it can
            if not ended:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeIsUpError))

    timer = threading.Timer(limit_s, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with deciding:
            ended = True
        timer.cancel()
