"""``sensitivity explain``: what ``sensitivity analyze`` would cost, from a short probe."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from sensitivity.cli.arguments import add_json, add_sweep
from sensitivity.cli.output import Answer
from sensitivity.cli.sweeps import calibrated, checked_recipes, stop_of


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain",
        help="tell what analyze will cost",
        description="Tell the time and memory that analyze will take in one process with the same options. The first "
        "batches are run as a probe; nothing is written.",
    )
    add_sweep(parser)
    add_json(parser, "the costs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    recipes = checked_recipes(options)
    model, task = calibrated(options, recipes)
    from sensitivity.sweep.settings import Sweep

    explanation = model.wrapped.explain(
        task,
        recipes,
        layers=options.layers or "*",
        stop=stop_of(options),
        settings=Sweep(intervals=not options.no_intervals),
    )
    return Answer(str(explanation), asdict(explanation))
