"""``sensitivity completion``: a script that lets a shell complete commands, options and files."""

from __future__ import annotations

import argparse
from pathlib import Path

from sensitivity.cli.output import Answer
from sensitivity.errors import MissingPackageError, how_to_install

SHELLS = ("bash", "zsh", "tcsh")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands in your shell",
        description="Print a script that lets a shell complete commands, options and files. It is made by the package "
        "shtab. For bash: sensitivity completion bash > ~/.local/share/bash-completion/completions/sensitivity",
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    try:
        import shtab  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"the script is made by the package 'shtab'. {how_to_install('completion')}"
        ) from error
    parser: argparse.ArgumentParser = options.parser
    _complete_files(parser, shtab.FILE)
    script: str = shtab.complete(parser, shell=options.shell)
    return Answer(script)


def _complete_files(parser: argparse.ArgumentParser, files: object) -> None:
    """Let every argument that is a path be completed from the files of the current folder."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                _complete_files(command, files)
        elif action.type is Path:
            vars(action)["complete"] = files
