"""A folder through which the workers of one sweep get what they need; it goes when the sweep does, however it ends.

A sweep that ends removes it. Where the sweep is killed its workers do, as they end; and where they are killed as well,
the next sweep on this machine does, which finds that nobody holds the folder's lock.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX = "sensitivity-job-"
_LOCK = "in-use"
_NEW_S = 60.0  # a folder without a lock that is younger is being made


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder for the time of a ``with`` block; those that killed sweeps left behind are removed."""
    remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / _LOCK).open("wb") as lock:
            _is_taken(lock)
            yield folder


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of sweeps that are no longer running.

    Args:
        parent: Where to look.
    """
    if importlib.util.find_spec("fcntl") is None:  # Windows: a folder stays if the workers are killed as well
        return
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # of somebody else, or removed by another process meanwhile
            if _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    path = folder / _LOCK
    if folder.is_symlink() or path.is_symlink() or not path.is_file():
        return not folder.is_symlink() and time.time() - folder.stat().st_mtime > _NEW_S
    with path.open("rb+") as lock:
        return not _is_taken(lock)


def _is_taken(lock: IO[bytes]) -> bool:
    """Whether another process holds a lock; it is held by this one afterwards if not, until the file is closed."""
    if importlib.util.find_spec("fcntl") is None:
        return False
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
