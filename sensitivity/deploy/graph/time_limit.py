"""A limit on the time that an export takes: exporters can run for hours on a model that they do not finish."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from sensitivity.errors import ExportError


class TimeIsUpError(BaseException):
    """Raised by the alarm; no Exception, since exporters catch those and try something else."""


@contextlib.contextmanager
def within_seconds(limit_s: float | None) -> Iterator[None]:
    """Stop what a ``with`` block does after some seconds.

    Args:
        limit_s: Seconds; None sets no limit.

    Raises:
        ExportError: If the limit is not positive, or cannot be set here: outside the main thread, or on Windows.
        TimeIsUpError: When the time is up, from wherever Python code is then.
    """
    if limit_s is None:
        yield
        return
    if not limit_s > 0:
        raise ExportError(f"export_limit_s={limit_s}: give seconds above 0, or None for no limit.")
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        raise ExportError(
            f"export_limit_s={limit_s} cannot be kept here: an alarm reaches the main thread alone, and Windows has "
            "none. Leave it out, or export in the main thread."
        )

    def ring(_: int, __: FrameType | None) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
