"""What C code writes to this process's stdout and stderr: past Python's streams, to the descriptors themselves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO

OUTPUTS = (1, 2)
"""stdout and stderr."""

_one_at_a_time = threading.RLock()  # two threads would put back each other's files, and the process would stay silent


@contextlib.contextmanager
def descriptors_kept(keep: Callable[[str], object]) -> Iterator[None]:
    """Keep what is written to the descriptors of stdout and stderr inside the block, and put them back behind it.

    Descriptors belong to the process: what other threads write meanwhile is kept as well. One that is closed stays so.

    Args:
        keep: Given all that was written, also where the block raises.
    """
    with _one_at_a_time, tempfile.TemporaryFile() as file:
        try:
            with contextlib.ExitStack() as undo:
                flush_streams()  # what was written before belongs to the old places
                for descriptor in OUTPUTS:
                    _redirect(descriptor, file, undo)
                undo.callback(flush_streams)
                yield
        finally:
            file.seek(0)
            keep(file.read().decode("utf-8", "replace"))


def _redirect(descriptor: int, file: IO[bytes], undo: contextlib.ExitStack) -> None:
    """Let a descriptor lead into a file until ``undo`` is left."""
    with contextlib.suppress(OSError):  # closed, as in a process without a console
        before = os.dup(descriptor)
        undo.callback(os.close, before)
        undo.callback(os.dup2, before, descriptor)
        os.dup2(file.fileno(), descriptor)


def flush_streams() -> None:
    """Let what Python and C still hold of stdout and stderr out of their buffers."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError):  # closed
            if stream is not None:
                stream.flush()
    flush_c()


def flush_c() -> None:
    """Let C's own printing out of its buffer."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # where C's library is not found by this way
        ctypes.CDLL(None).fflush(None)
