"""The process held to some CPUs while something is timed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def held_to_cpus(count: int | None) -> Iterator[tuple[int, ...]]:
    """Hold this thread, and those it starts, to so many of the CPUs that it may use; the others come back at the end.

    Args:
        count: How many; None holds it to nothing.

    Yields:
        The CPUs; none where this system cannot hold a thread to a CPU, or where there are no more than ``count``.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if count is None or len(allowed) <= count:
        yield ()
        return
    chosen = tuple(allowed[:count])
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, allowed)
