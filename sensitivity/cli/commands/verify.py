"""``sensitivity verify``: does an engine compute what was simulated? Exit code 1 if it does not."""

from __future__ import annotations

import argparse
from pathlib import Path

from sensitivity.cli.arguments import add_json, add_scheme, add_task
from sensitivity.cli.commands.deploy import made_deployed
from sensitivity.cli.models import made_task
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
    add_task(parser, optional=True)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the verification")
    add_json(parser, "the verification")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    check_place(options.out)
    model, deployed = made_deployed(options)
    task = None if options.task is None else made_task(options.task, model, options.limit)
    verification = model.wrapped.verify(deployed, task)
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
