"""A record's file, written in one step, and read with what is wrong with it said in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sensitivity.errors import SensitivityError


def write_json(path: str | Path, plain: Any) -> None:
    """Write plain values as JSON, in one step: a reader never sees half a file.

    Args:
        path: The file.
        plain: What JSON can hold; not NaN, which it cannot.
    """
    path = Path(path)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, path)


def read_json(path: str | Path, what: str, writer: str, error: type[SensitivityError]) -> Any:
    """The JSON in a file.

    Args:
        path: The file.
        what: What it should hold, in messages: ``a study``.
        writer: What writes such files, in messages: ``Study.save``.
        error: Raised where there is no such file.

    Raises:
        SensitivityError: As ``error``, if the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise error(f"no {what.split(' ', 1)[1]} at {path}. {writer} writes one.") from missing
    except OSError as refused:
        why = refused.strerror or type(refused).__name__
        raise error(f"{path} cannot be read as {what}: {why}. Give a file written by {writer}.") from refused
    except (ValueError, RecursionError) as broken:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise error(f"{path} is not JSON: {broken}. Give a file written by {writer}.") from broken
