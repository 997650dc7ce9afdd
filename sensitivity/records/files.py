"""A record's file read, and what is wrong with it said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sensitivity.errors import SensitivityError


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
