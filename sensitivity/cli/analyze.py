"""``sensitivity analyze``: disturb every layer of a model and score a task each time."""

from __future__ import annotations

import argparse
from pathlib import Path

from sensitivity.cli.models import add_model, add_task, made_task, made_wrapped
from sensitivity.cli.named import call_named
from sensitivity.cli.output import print_json, writing
from sensitivity.cli.recipes import HELP, recipe
from sensitivity.errors import CalibrationError


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "analyze",
        help="quantize one layer at a time and score a task each time",
        description="Disturb every layer of a model by itself and score the task each time. With --store it can be "
        "stopped at any time; the same command goes on from there.",
    )
    add_model(parser)
    add_task(parser)
    parser.add_argument("--recipe", action="append", type=recipe, metavar="RECIPE", help=f"{HELP} (default: int8)")
    parser.add_argument("--layers", action="append", metavar="PATTERN", help="only these layers, e.g. 'stage3:*:*'")
    parser.add_argument("--store", type=Path, metavar="FILE", help="keep every result here, and go on from it")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("study.json"),
        metavar="STUDY.json",
        help="where to write (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: the study")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Run the command."""
    recipes = given.recipe or [recipe("int8")]
    needy = [one.name for one in recipes if one.needs_calibration]
    if needy and given.calibration is None:
        raise CalibrationError(
            f"recipe {needy[0]} quantizes activations and needs images to measure their ranges on: give --calibration "
            "package.module:callable, other images than the task's own where there are some."
        )
    with writing(given.out):
        pass  # a folder that cannot be made is told before the work, not after it
    wrapped, task = made_wrapped(given), made_task(given.task)
    images = None if given.calibration is None else call_named(given.calibration, "IMAGES", CalibrationError)
    study = wrapped.analyze(task, recipes, calibration=images, layers=given.layers or "*", store=given.store)
    with writing(given.out):
        study.save(given.out)
    if given.json:
        print_json(study.to_json())
        return
    print(study)
    print(f"wrote {given.out}; sensitivity report {given.out} draws it")
