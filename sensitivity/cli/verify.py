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


def run(given: argparse.Namespace) -> Answer:
    """Run the command."""
    check_place(given.out)
    task = None if given.task is None else made_task(given.task)
    wrapped, deployed = made_deployed(given)
    found = wrapped.verify(deployed, task)
    if given.out is not None:
        with writing(given.out):
            found.save(given.out)
    wrong = f"{given.engine} does not compute what was simulated: see the layers that are not verified."
    return Answer(str(found), found.to_json(), 0 if found.passed else FAILED, "" if found.passed else wrong)
