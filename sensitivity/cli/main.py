"""``sensitivity``: the command line. Every command is a module of this room with a function ``register``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from sensitivity import __version__
from sensitivity.cli import (
    analyze,
    compare,
    demo,
    deploy,
    diagnose,
    doctor,
    evaluate,
    explain,
    layers,
    protect,
    report,
    tune,
    verify,
)
from sensitivity.cli.output import FAILED, INTERRUPTED, NOBODY_READS, Answer, print_json, stdout_aside
from sensitivity.errors import SensitivityError

COMMANDS = (demo, layers, explain, analyze, diagnose, tune, report, compare, protect, evaluate, deploy, verify, doctor)


def whole_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="sensitivity", description="Find which layers of a vision model break when it is quantized or pruned."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``sensitivity``; None takes those of the process.

    Returns:
        The exit code: 0; 1 where what was asked cannot be done (one line on stderr says why); 130 when interrupted;
        141 where nobody reads on.

    Raises:
        SystemExit: With 2, if the words make no command; argparse has then said why.
    """
    options = whole_parser().parse_args(argv)
    try:
        answer = _answer(options)
        sys.stdout.flush()
    except SensitivityError as error:
        print(f"sensitivity: {_line(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("sensitivity: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # as in `sensitivity layers ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes
        return NOBODY_READS
    if answer.complaint:
        print(f"sensitivity: {_line(answer.complaint)}", file=sys.stderr)
    return answer.code


def _answer(options: argparse.Namespace) -> Answer:
    """Run a command and print what it found; with ``--json`` nothing else that is printed reaches stdout."""
    as_json = getattr(options, "json", False)
    with stdout_aside() if as_json else contextlib.nullcontext():
        answer: Answer = options.run(options)
    if as_json:
        print_json(answer.plain)
    elif answer.text:
        print(answer.text)
    return answer


def _line(text: object) -> str:
    return " ".join(str(text).split())


if __name__ == "__main__":
    sys.exit(main())
