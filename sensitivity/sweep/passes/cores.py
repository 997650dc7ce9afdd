"""How many processes this machine has room for: cores that may be used, and memory."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, on Linux
_MEMORY = Path("/proc/meminfo")


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its container is given time on."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_quota()
    return bound if quota is None else max(1, min(bound, quota))


def processes_that_fit(bytes_each: float) -> int:
    """Processes that fit into half of the memory that is free, at least one; very many where that is not known."""
    free = _free_bytes()
    return 1_000_000 if free is None else max(1, int(free / 2 // max(1.0, bytes_each)))


def _container_quota() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return None if quota == "max" else math.ceil(int(quota) / int(period))
    return None


def _free_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
