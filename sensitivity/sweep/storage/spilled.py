"""Results of a sweep without a store: in memory, and beyond a size in a temporary file."""

from __future__ import annotations

import os
import pickle
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from sensitivity.contracts import Store
from sensitivity.sweep.storage.journal import Journal, MemoryStore

MEMORY_BYTES = 512 << 20
"""What results may take in memory before others are written to a file."""

_OBJECT_BYTES = 120  # a Python object with its place in a dict, roughly
_NUMBERS = frozenset({bool, int, float})


class SpilledStore(MemoryStore):
    """A store that lasts as long as the object; what memory shall not hold lies in a file without a name.

    The file is in the folder for temporary files and is gone with the object, also after a kill. What cannot be
    written stays in memory: objects of classes of a task's own, and everything once the disk is full. A forked process
    reads what was there when it was forked.

    Args:
        memory_bytes: About how much is kept in memory.

    Attributes:
        written_bytes: What lies in the file.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        super().__init__()
        self._left = memory_bytes
        self._places: dict[str, tuple[int, int]] = {}  # key to start and size in the file
        self._file: int | None = None  # its descriptor
        self.written_bytes = 0

    def __contains__(self, key: str) -> bool:
        return super().__contains__(key) or key in self._places

    def read(self, key: str) -> Any:
        """The value of a key that is in the store; one from the file is a copy."""
        if self._file is None or key not in self._places:
            return super().read(key)
        start, size = self._places[key]
        return pickle.loads(os.pread(self._file, size, start))

    def add(self, key: str, value: Any) -> None:
        """Keep a value; a key that is in the store keeps its first one."""
        if key in self:
            return
        size = size_in_memory(value) if self._left > 0 else 0
        self._left -= size
        if self._left > 0 or not self._written(key, value):
            super().add(key, value)

    def _written(self, key: str, value: Any) -> bool:
        """Write a value to the file; False where that fails."""
        if not is_data(value):
            return False
        try:
            if self._file is None:
                with tempfile.TemporaryFile(prefix="sensitivity-") as file:
                    self._file = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._file)
            line = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
            if os.pwrite(self._file, line, self.written_bytes) != len(line):
                return False  # the disk is full
        except (OSError, AttributeError):  # Windows has no pwrite
            return False
        self._places[key] = self.written_bytes, len(line)
        self.written_bytes += len(line)
        return True


def is_read_when_forked(store: Store) -> bool:
    """Whether copies of this process may read a store; of one that somebody else made, nothing is known."""
    return isinstance(store, (MemoryStore, Journal))


def is_data(value: Any) -> bool:
    """Whether a value is nothing but arrays, tensors, text and numbers in dicts, lists and tuples."""
    kind = type(value)
    if kind is np.ndarray:
        return not value.dtype.hasobject
    if kind is dict:
        return all(map(is_data, value)) and all(map(is_data, value.values()))
    if kind in (list, tuple):
        return all(map(is_data, value))
    return kind in (Tensor, str, bytes, bool, int, float, type(None)) or isinstance(value, np.generic)


def size_in_memory(value: Any) -> int:
    """About how many bytes a prediction or a nest of predictions takes."""
    if isinstance(value, np.ndarray):
        return _OBJECT_BYTES + value.nbytes
    if isinstance(value, Tensor):
        return _OBJECT_BYTES + value.numel() * value.element_size()
    if isinstance(value, (str, bytes)):
        return _OBJECT_BYTES + len(value)
    if isinstance(value, Mapping):
        return _OBJECT_BYTES + sum(size_in_memory(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        if _NUMBERS.issuperset(map(type, value)):
            return _OBJECT_BYTES * (1 + len(value))
        return _OBJECT_BYTES + sum(map(size_in_memory, value))
    return _OBJECT_BYTES
