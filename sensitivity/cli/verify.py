"""``sensitivity verify``: does an engine compute what was simulated? Exit code 1 if it does not."""

from __future__ import annotations

import argparse
from pathlib import Path

from sensitivity.cli.deploy import add_scheme, made_deployed
from sensitivity.cli.models import FORM, made_task
from sensitivity.cli.output import FAILED, Answer, check_place, writing


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="check that an engine computes what was simulated",
        description="Deploy a scheme and compare the engine with the simulation: layer by layer, at the outputs, and "
        "in the task's metric. Exits with 1 where they part.",
    )
    add_scheme(parser)
    parser.add_argument("task", nargs="?", metavar="TASK", help=f"{FORM} that returns a task; without one no metric")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the verification")
    parser.add_argument("--json", action="store_true", help="print JSON: the verification")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    check_place(options.out)
    task = None if options.task is None else made_task(options.task)
    wrapped, deployed = made_deployed(options)
    verification = wrapped.verify(deployed, task)
    if options.out is not None:
        with writing(options.out):
            verification.save(options.out)
    wrong = f"{options.engine} does not compute what was simulated: see the layers that are not verified."
    return Answer(
        str(verification),
        verification.to_json(),
        0 if verification.passed else FAILED,
        "" if verification.passed else wrong,
    )
