"""``sensitivity layers``: the layers of a model by name."""

from __future__ import annotations

import argparse

from sensitivity.cli.arguments import add_json, add_model
from sensitivity.cli.models import made_wrapped
from sensitivity.cli.output import Answer


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "layers",
        help="list the layers of a model",
        description="Every layer of a model in execution order, with kind, role, shape and flags.",
    )
    add_model(parser, device=False)
    parser.add_argument("--select", action="append", metavar="PATTERN", help="only what a pattern selects, e.g. @exit")
    add_json(parser, "every layer with every attribute")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    layers = made_wrapped(options).layers
    shown = layers.select(options.select) if options.select else layers
    skipped = [{"module": module.module, "reason": module.reason} for module in layers.skipped]
    plain = {"model": layers.model, "layers": [layer.to_json() for layer in shown], "skipped": skipped}
    return Answer(str(shown), plain)
