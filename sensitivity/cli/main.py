"""``sensitivity``: the command line. Every command is a module of ``commands`` with a function ``register``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from sensitivity import __version__
from sensitivity.cli.commands import (
    analyze,
    compare,
    completion,
    demo,
    deploy,
    diagnose,
    doctor,
    evaluate,
    explain,
    layers,
    pareto,
    protect,
    report,
    tune,
    verify,
)
from sensitivity.cli.config import expanded
from sensitivity.cli.models import read_recipes
from sensitivity.cli.named import import_module_named
from sensitivity.cli.output import (
    INTERRUPTED,
    NOBODY_READS,
    WRONG,
    Answer,
    print_json,
    stdout_aside,
    warnings_as_lines,
)
from sensitivity.errors import SensitivityError

COMMANDS = (
    *(demo, layers, explain, analyze, diagnose, tune, report, compare, pareto, protect),
    *(evaluate, deploy, verify, doctor, completion),
)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse words that a command does not know in the name of that command, with its nearest option."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings if option != "--help"]
            near = get_close_matches(unknown[0].partition("=")[0], known, n=1) if unknown[0].startswith("-") else []
            self.error(f"{' '.join(unknown)}: no such argument{f'; nearest is {near[0]}' if near else ''}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print the line and exit."""
        self.exit(WRONG, f"sensitivity: {message}. {self.prog} --help shows what can be given.\n")


def whole_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="sensitivity",
        description="Find which layers of a vision model break when it is quantized or pruned.",
        epilog="Exit code: 0 done; 1 the answer is no (tune misses its target, verify or doctor finds a fault, analyze "
        "--latency cannot time a recipe); 2 the command line or an input is wrong; 130 interrupted with Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    parser.set_defaults(parser=parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``sensitivity``; None takes those of the process.

    Returns:
        The exit code: 0; 1 where the command ran and the answer is no; 2 where it could not answer (one line on stderr
        says why); 130 when interrupted; 141 where nobody reads on.

    Raises:
        SystemExit: With 2, if the words make no command; argparse has then said why.
    """
    try:
        words = expanded(sys.argv[1:] if argv is None else argv)
        options = whole_parser().parse_args(words, argparse.Namespace(words=words))
        with warnings_as_lines():
            _register(options)
            answer = _answer(options)
        sys.stdout.flush()
    except SensitivityError as error:
        print(f"sensitivity: {_line(error.in_shell)}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("sensitivity: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # as in `sensitivity layers ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes
        return NOBODY_READS
    except Exception:  # noqa: BLE001 - the traceback is shown; with 1, Python's own code, it would pass for an answer
        traceback.print_exc()
        return WRONG
    if answer.complaint:
        print(f"sensitivity: {_line(answer.complaint)}", file=sys.stderr)
    return answer.code


def _register(options: argparse.Namespace) -> None:
    """Import what registers formats, observers and engines, before a file is read that names one."""
    for module in getattr(options, "modules", []):
        import_module_named(module, "--import", SensitivityError)
    read_recipes(options)


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
