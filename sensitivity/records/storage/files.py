"""A record's file, written in one step, and read with what is wrong with it said in one line."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sensitivity.errors import SensitivityError

Loaded = TypeVar("Loaded")

MAX_JSON_BYTES = 2**30
"""Bytes of a record's file. The study of a model with a thousand layers has a few million."""


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file in one step: a reader never sees half of it, and a failure leaves what was there before.

    The content goes to a draft in the same folder, whose name nobody can foresee and which must not exist yet, and the
    draft then takes the file's place. The mode of a file that is replaced is kept, and a link stays a link. A device or
    a pipe is written to as it is.

    Raises:
        OSError: If the folder does not exist, or cannot be written to.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        target.write_bytes(content)
        return
    draft = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask takes
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            draft.chmod(stat.S_IMODE(mode))
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8 in one step; see ``write_bytes``."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, plain: Any) -> None:
    """Write plain values as JSON, in one step; see ``write_bytes``.

    Args:
        path: The file.
        plain: What JSON can hold; not NaN, which it cannot.
    """
    write_text(path, json.dumps(plain, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, content: str, writer: str, error: type[SensitivityError]) -> Any:
    """The JSON in a file.

    Args:
        path: The file.
        content: What it should hold, in messages: ``a study``.
        writer: What writes such files, in messages: ``Study.save``.
        error: Raised where there is no such file.

    Raises:
        SensitivityError: As ``error``, if the file is missing, is a pipe or a device, is too large, cannot be read, or
            is not JSON. An object with the same key twice and a number that is not finite are not JSON.
    """
    try:
        text = read_bytes(path, "record").decode("utf-8")
        return json.loads(text, object_pairs_hook=without_repeats, parse_constant=refuse_constant)
    except FileNotFoundError as missing:
        raise error(f"no {content.split(' ', 1)[1]} at {path}. {writer} writes one.") from missing
    except OSError as refused:
        why = refused.strerror or str(refused) or type(refused).__name__
        raise error(f"{path} cannot be read as {content}: {why}. Give a file written by {writer}.") from refused
    except (ValueError, RecursionError) as broken:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise error(f"{path} is not JSON: {broken}. Give a file written by {writer}.") from broken


def load_json(
    path: str | Path, content: str, writer: str, error: type[SensitivityError], from_json: Callable[[Any], Loaded]
) -> Loaded:
    """The record in a file; every error names the file.

    Args:
        path: The file.
        content: What it should hold, in messages: ``a study``.
        writer: What writes such files, in messages: ``Study.save``.
        error: Raised where the file holds no JSON.
        from_json: Makes the record of what the JSON holds.

    Raises:
        SensitivityError: As ``error``, or what ``from_json`` raises.
    """
    plain = read_json(path, content, writer, error)
    try:
        return from_json(plain)
    except SensitivityError as wrong:
        raise type(wrong)(python=f"{path}: {wrong}", shell=f"{path}: {wrong.in_shell}") from wrong
    except RecursionError as deep:
        raise error(f"{path} is not {content}: it holds too many nests in nests. Give a file by {writer}.") from deep


def check_regular(path: Path) -> None:
    """Refuse a pipe or a device, which may never end; whether there is a file at all is for the reader to find out.

    Raises:
        OSError: If the path leads to one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError("it is a pipe or a device, not a file")


def read_bytes(path: str | Path, noun: str, *, most: int = MAX_JSON_BYTES) -> bytes:
    """The content of a file on a disk; what may never end is not opened.

    Args:
        path: The file.
        noun: What it should hold, in one word, for messages.
        most: Bytes that it may have.

    Raises:
        OSError: If it cannot be read, is a pipe or a device, or has more bytes.
    """
    path = Path(path)
    check_regular(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # no memory is asked for that the file has not
        content = file.read(size + 1) if size <= most else b""
        if len(content) > size:  # a file may grow while it is read, or not tell its size
            content += file.read(most + 1 - len(content))
    if max(size, len(content)) > most:
        raise OSError(f"it has more than the {most} bytes of the largest {noun}")
    return content


def without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object as a dict.

    Raises:
        ValueError: If a key stands twice; other readers would take the other value.
    """
    plain = dict(pairs)
    if len(plain) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.60} stands twice in an object")
    return plain


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and infinities, which Python's reader takes and JSON does not have.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{name} is no number in JSON")
