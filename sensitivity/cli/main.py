"""``sensitivity``: the command line. Every command is a module of this room with a function ``register``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sensitivity import __version__
from sensitivity.cli import demo
from sensitivity.errors import SensitivityError

COMMANDS = (demo,)

FAILED, INTERRUPTED = 2, 130
"""Exit codes, besides 0: what was asked cannot be done (argparse's own code for it), and the shell's for Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``sensitivity``; None takes those of the process.

    Returns:
        The exit code: 0, 2 where what was asked cannot be done (one line on stderr says why), 130 when interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="sensitivity", description="Find which layers of a vision model break when it is quantized or pruned."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    given = parser.parse_args(argv)
    try:
        given.run(given)
    except SensitivityError as error:
        print(f"sensitivity: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("sensitivity: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
