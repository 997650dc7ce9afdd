"""What belongs to the whole process, and not to one model: threads that need it take turns.

torch has one random generator and one set of switches for attention in a process. Two threads that run passes at the
same time would draw each other's numbers, and compute other bits while a switch is off.
"""

from __future__ import annotations

import os
import threading


class _Turn:
    """A lock that one thread may take several times, and that is free in a forked process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """In a forked process: the thread that held it is not there."""
        self._lock = threading.RLock()


process_state = _Turn()
"""Held while a pass needs torch's generators or switches: ``with process_state: ...``."""

if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=process_state.renew)
