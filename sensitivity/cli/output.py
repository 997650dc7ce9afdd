"""What commands print and write: JSON and nothing else where a program reads it, else text for people."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sensitivity.deploy.graph.export.descriptors import flush_c
from sensitivity.errors import SensitivityError

PACKAGE = __name__.partition(".")[0]
FAILED, WRONG, INTERRUPTED, NOBODY_READS = 1, 2, 130, 141
"""Exit codes, besides 0: it ran and the answer is no; a wrong command line or input; Ctrl-C; a closed pipe."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has to say when it is done; ``main`` prints it.

    Attributes:
        text: For people.
        plain: The same for a program, with ``--json``.
        code: Exit code.
        complaint: Why the code is not 0, for stderr.
    """

    text: str = ""
    plain: Any = None
    code: int = 0
    complaint: str = ""


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout; numbers that are none become null."""
    print(json.dumps(_plain(value), indent=1, allow_nan=False))


@contextlib.contextmanager
def stdout_aside() -> Iterator[None]:
    """Send to stderr what is printed in the block, by Python, by C libraries and by other programs.

    Where the process has no stdout or no stderr, only what Python prints.
    """
    out = sys.stdout
    out.flush()
    with contextlib.ExitStack() as undo:
        with contextlib.suppress(OSError):
            stdout_copy = os.dup(1)
            undo.callback(os.close, stdout_copy)
            os.dup2(2, 1)
            undo.callback(os.dup2, stdout_copy, 1)
            undo.callback(flush_c)
            undo.callback(out.flush)  # what was printed through a name that somebody kept
        undo.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print each warning in the block as one line on stderr; those of installed packages but this one are left out."""

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        place = Path(filename)
        is_ours = category.__module__.partition(".")[0] == PACKAGE or place.is_relative_to(Path(__file__).parents[1])
        if is_ours or "site-packages" not in place.parts:
            text = getattr(message, "in_shell", str(message))
            print(f"sensitivity: warning: {' '.join(text.split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = cast(Any, show)
        yield


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of a file, and turn what the file system refuses into a message with what to do next.

    Raises:
        SensitivityError: If a file cannot be written there, or is not inside the block.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse(path)
        yield
    except OSError as error:
        raise SensitivityError(f"cannot write {path}: {error}. Name another place.") from error


def write_all(places: Mapping[Path | None, Callable[[Path], object]]) -> list[str]:
    """Write each file by its function, and give a line on each; None is written nowhere.

    Raises:
        SensitivityError: If a file cannot be written there.
    """
    written = [(path, write) for path, write in places.items() if path is not None]
    for path, write in written:
        with writing(path):
            write(path)
    return [f"wrote {path}" for path, _ in written]


def check_place(path: Path | None) -> None:
    """Tell before long work what would keep its result from being written; None is written nowhere.

    Raises:
        SensitivityError: If a file cannot be written there.
    """
    if path is not None:
        with writing(path):
            pass


def _refuse(path: Path) -> None:
    if path.is_dir():
        raise SensitivityError(f"cannot write {path}: it is a folder. Name a file, e.g. {path / 'result'}.")
    for place in (path.parent, *([path] if path.exists() else [])):
        if not os.access(place, os.W_OK):
            raise SensitivityError(f"cannot write {path}: no permission to write {place}. Name another place.")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    return value
