"""A file that holds a command line: ``--save-config`` writes it, and ``--config`` runs it again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from sensitivity import __version__
from sensitivity.cli.output import writing
from sensitivity.errors import SensitivityError
from sensitivity.records.storage.files import read_json, write_text

SCHEMA = 1
LOAD, SAVE = "--config", "--save-config"


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add --config and --save-config."""
    parser.add_argument(
        LOAD,
        type=Path,
        metavar="FILE.json",
        help=f"take MODEL, TASK and options from a file that {SAVE} wrote; what is given besides comes after them",
    )
    parser.add_argument(SAVE, type=Path, metavar="FILE.json", help=f"write this command line, for {LOAD}")


def expanded(words: Sequence[str]) -> list[str]:
    """A command line with the words of its ``--config`` file behind the command.

    What stands on the command line itself comes later, so that it takes the place of an option of the file; one that
    may be given again is added to those of the file.

    Raises:
        SensitivityError: If the file is missing, or holds no command line of this command.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument(LOAD, type=Path)
    try:
        options, remaining = finder.parse_known_args(list(words))
    except argparse.ArgumentError:
        return list(words)  # the parser of all commands tells what is missing
    if options.config is None or not remaining:
        return list(words)
    command, *others = remaining
    return [command, *_load(options.config, command), *others]


def save_config(path: Path, words: Sequence[str]) -> str:
    """Write a command line without its ``--save-config``, and give a line on it.

    Args:
        path: The file.
        words: What stood behind ``sensitivity``.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument(SAVE)
    command, *arguments = finder.parse_known_args(list(words))[1]
    plain = {"schema": SCHEMA, "sensitivity": __version__, "command": command, "arguments": arguments}
    with writing(path):
        write_text(path, json.dumps(plain, indent=1) + "\n")
    return f"wrote {path}; sensitivity {command} {LOAD} {path} runs it again"


def _load(path: Path, command: str) -> list[str]:
    plain = read_json(path, "a command line", f"sensitivity {command} {SAVE}", SensitivityError)
    arguments = plain.get("arguments") if isinstance(plain, dict) else None
    if not isinstance(arguments, list) or not all(isinstance(word, str) for word in arguments):
        raise SensitivityError(f"{path} holds no command line. Give a file written by sensitivity {command} {SAVE}.")
    if plain.get("schema") != SCHEMA:
        raise SensitivityError(f"{path} has the schema {plain.get('schema')!r:.40}; this version reads {SCHEMA}.")
    if plain.get("command") != command:
        raise SensitivityError(f"{path} holds a command line of {plain.get('command')!r:.40}, not of {command!r}.")
    return arguments
