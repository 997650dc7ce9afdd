"""Where results are kept: in memory, or in a journal that survives a kill, a full disk and a power cut.

A store maps keys to values, and the first value of a key stays. A journal is a file of JSON lines: a header, then one
record a line, each on the disk (fsync) before the sweep goes on. A kill can tear the last line only; a torn line has no
line end or a wrong checksum, is ignored, and is overwritten by the next record.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import time
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from sensitivity.contracts import Store
from sensitivity.errors import StoreConflictError, StoreError, StoreFormatError
from sensitivity.records.storage.files import refuse_constant, without_repeats
from sensitivity.sweep.storage.encoding import decode, encode

SCHEMA_VERSION = 1
_HEADER = b'{"store": "sensitivity", "schema": %d}\n' % SCHEMA_VERSION
_MAX_HEADER_BYTES = 4096
_WRITER = "writer: "  # begins the keys that say who wrote
MAX_LINE_BYTES = 2**31
"""Bytes of one record; a line without an end is not read into memory for ever."""


def check_can_lock() -> None:
    """Refuse a store in a file on a system that cannot lock one, before a file is made or a pass is run.

    Raises:
        StoreError: On Windows.
    """
    if importlib.util.find_spec("fcntl") is None:
        raise StoreError(
            "store=: a store in a file needs fcntl, which this system lacks. Leave out store=, or give a store of your "
            "own with the methods of sensitivity.contracts.Store."
        )


class MemoryStore:
    """A store that lasts as long as the object."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def read(self, key: str) -> Any:
        """The value of a key that is in the store."""
        return self._values[key]

    def add(self, key: str, value: Any) -> None:
        """Keep a value; a key that is in the store keeps its first one."""
        self._values.setdefault(key, value)


class _Place(NamedTuple):
    """Where a record lies in the file, in bytes."""

    start: int
    size: int


class Journal:
    """A store in a file that one process at a time may write; values are read from the file when they are asked for.

    A forked process reads what was there when it was forked, and writes nothing.

    Use it in a ``with`` block, or close it: that lets the next process in.

    Args:
        path: The file; made if it is not there.

    Raises:
        StoreConflictError: If another process has it open.
        StoreFormatError: If the file is no store, of a newer version, or damaged before its last record.
        StoreError: If the file cannot be opened, locked or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[str, _Place] = {}
        self._end = 0  # of the last complete record
        check_can_lock()
        try:
            _check_regular(self.path)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise StoreError(f"the store {path} cannot be opened: {error}. Its folder must exist.") from error
        _open.add(self)
        try:
            self._lock()
            self._load()
        except BaseException:
            self.close()
            raise

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def read(self, key: str) -> Any:
        """The value of a key that is in the store.

        Raises:
            StoreFormatError: If somebody else changed the file.
        """
        start, size = self._places[key]
        self._file.seek(start)
        line = self._file.read(size)
        if not _is_whole(line):
            raise StoreFormatError(f"the record at byte {start} of {self.path} changed while it was in use.")
        try:
            return decode(_parsed(line)["value"])
        except StoreFormatError as error:
            raise StoreFormatError(
                f"the record at byte {start} of the store {self.path} cannot be used: {error}. Give this run a "
                "store of its own."
            ) from error

    def add(self, key: str, value: Any) -> None:
        """Keep a value; it is on the disk when this returns. A key that is in the store keeps its first value.

        Raises:
            PredictionError: If the value holds something that is no data.
            StoreError: If it cannot be written, e.g. because the disk is full.
        """
        if key in self:
            return
        line = _line(key, value)
        place = _Place(self._end, len(line))
        self._append(line)
        self._places[key] = place

    def close(self) -> None:
        """Let go of the file and its lock, also where a forked process holds the file open."""
        with contextlib.suppress(ImportError, OSError, ValueError):
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self) -> None:
        for key, place in _records(self.path):
            self._places.setdefault(key, place)
            self._end = place.start + place.size
        if not self._places:  # new, or killed before the first record was complete
            self._append(_HEADER)
            _sync_folder(self.path)
        self.add(f"{_WRITER}pid {os.getpid()} on {socket.gethostname()}, started {time.strftime('%F %T')}", None)

    def _append(self, data: bytes) -> None:
        try:
            self._file.truncate(self._end)  # drops what a torn write left behind
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written: {error}. The {len(self._places)} records before are kept: make room, "
                "and run the same again to go on from there."
            ) from error
        self._end += len(data)

    def _lock(self) -> None:
        import fcntl  # not on Windows

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            writers = [key.removeprefix(_WRITER) for key, _ in _records(self.path) if key.startswith(_WRITER)]
            writer = f" ({writers[-1]})" if writers else ""
            raise StoreConflictError(
                f"another process{writer} is writing to the store {self.path}. Wait for it, or give this run its own."
            ) from error
        except OSError as error:
            raise StoreError(f"{self.path} cannot be locked: {error}. Put the store on a local disk.") from error


_open: weakref.WeakSet[Journal] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked process: open the files anew, to read what was there when it was forked.

    Its copies share the writer's place in the file, and would keep the lock when the writer is gone.
    """
    for journal in [journal for journal in _open if not journal._file.closed]:
        journal._file.close()
        with contextlib.suppress(OSError):  # whoever then reads is told that the file is closed
            journal._file = journal.path.open("rb", buffering=0)


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def usable_store(store: Store | str | Path | None) -> Iterator[Store | None]:
    """The store that a caller meant: a path is opened as a journal and closed afterwards.

    Raises:
        StoreError: If the file cannot be used; see ``Journal``.
    """
    if isinstance(store, (str, Path)):
        with Journal(store) as journal:
            yield journal
    else:
        yield store


def _line(key: str, value: Any) -> bytes:
    text = json.dumps({"key": key, "value": encode(value)}, allow_nan=False, separators=(",", ":"))
    content = text[1:].encode("ascii")
    return _checksum(content) + content + b"\n"


def _checksum(content: bytes) -> bytes:
    """How a line begins whose other bytes, but for the line end, are these."""
    return b'{"crc":"%08x",' % zlib.crc32(content)


def _is_whole(line: bytes) -> bool:
    """Whether a line is as it was written: neither torn nor damaged."""
    return line.endswith(b"\n") and line.startswith(_checksum(line[len(_checksum(b"")) : -1]))


def _parsed(line: bytes) -> dict[str, Any]:
    """The record in a whole line.

    Raises:
        StoreFormatError: If no store writes such a line.
    """
    try:
        record = json.loads(line, object_pairs_hook=without_repeats, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StoreFormatError(f"it is not JSON of a store: {error!r:.120}") from error
    if not isinstance(record, dict) or record.keys() != {"crc", "key", "value"} or not isinstance(record["key"], str):
        raise StoreFormatError("it is no record of a key and a value")
    return record


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise StoreFormatError(f"{path} has a line of more than {MAX_LINE_BYTES} bytes: it is no store.")
        yield line


def _records(path: Path) -> Iterator[tuple[str, _Place]]:
    """Key and place of every record, as far as they are complete.

    Raises:
        StoreFormatError: If the file is no store, of a newer version, or damaged before its last line.
    """
    with path.open("rb") as file:
        header = file.readline(_MAX_HEADER_BYTES)
        if header != _HEADER and _HEADER.startswith(header):
            return  # nothing yet, or torn while it was made
        _check_header(header, path)
        start, damaged = len(header), 0
        for number, line in enumerate(_lines(file, path), start=2):
            if damaged:
                raise StoreFormatError(
                    f"line {damaged} of the store {path} is damaged, and others follow it: this is no torn write. "
                    "Delete that line to measure again what it held."
                )
            if _is_whole(line):
                try:
                    yield _parsed(line)["key"], _Place(start, len(line))
                except StoreFormatError as error:
                    raise StoreFormatError(
                        f"line {number} of the store {path} cannot be used: {error}. Give this run a store of its own."
                    ) from error
                start += len(line)
            else:
                damaged = number


def _check_regular(path: Path) -> None:
    """Refuse what is no file on a disk: a pipe or a device may never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise StoreFormatError(f"{path} is a pipe or a device, and no store can be kept in it. Give a path of a file.")


def _check_header(header: bytes, path: Path) -> None:
    if header == _HEADER:
        return
    try:
        fields = json.loads(header)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or fields.get("store") != "sensitivity":
        raise StoreFormatError(f"{path} is not a store: it begins with {header[:40]!r}. Give the path of a new file.")
    raise StoreFormatError(
        f"the store {path} has schema {fields.get('schema')!r:.40}; this version reads {SCHEMA_VERSION}. Use the "
        "version of the library that wrote it, or a new store."
    )


def _sync_folder(path: Path) -> None:
    """Put a new file's name on the disk too."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
