"""What commands print and write: JSON and nothing else where a program reads it, else text for people."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sensitivity.errors import SensitivityError


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout; numbers that are none become null."""
    print(json.dumps(_plain(value), indent=1, allow_nan=False))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a message with what to do next.

    Raises:
        SensitivityError: If a file cannot be written inside the block.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise SensitivityError(f"cannot write {path}: {error}. Name another place.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(one) for one in value)
    return value
