"""``sensitivity diagnose``: what each layer's damage comes from, and what cures it, measured."""

from __future__ import annotations

import argparse

from sensitivity.cli.arguments import (
    DATASET,
    FORM,
    add_calibration,
    add_engine,
    add_file,
    add_json,
    add_layers,
    add_model,
    add_picture,
    add_table,
)
from sensitivity.cli.models import check_engine, made_images, made_model
from sensitivity.cli.output import Answer, check_place, write_all
from sensitivity.cli.recipes import HELP, recipe
from sensitivity.report.tables.csv_file import write_csv


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "diagnose",
        help="say what each layer's damage comes from, and what cures it",
        description="Quantize each layer alone and compare the model's outputs; give the layers that are hurt other "
        "recipes, each of which mends one cause, and measure what that gives back.",
    )
    add_model(parser)
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help=f"{FORM} that returns preprocessed images, or a task; or {DATASET}; some eight are usual",
    )
    add_calibration(parser)
    parser.add_argument(
        "--recipe",
        type=recipe,
        default="int8",
        metavar="RECIPE",
        help=f"what is done to each layer: {HELP} (default: %(default)s)",
    )
    add_layers(parser)
    parser.add_argument(
        "--enough-db",
        type=float,
        metavar="DB",
        help="SQNR of the outputs below which a layer is hurt (default: 10 dB below the median layer's)",
    )
    add_engine(
        parser,
        "--engine",
        help="an engine: where its sums saturate on this machine, run each layer on it, and say what that costs",
    )
    add_file(parser, "--out", "diagnosis.json", "where to write the findings")
    add_picture(parser, "--picture", "where to draw them", "diagnosis.png")
    add_table(parser, "layer")
    add_json(parser, "the findings")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    for path in (options.out, options.picture, options.table):
        check_place(path)
    if options.engine is not None:
        check_engine(options, options.engine)
    model = made_model(options)
    diagnosis = model.wrapped.diagnose(
        made_images(options.images, model),
        options.recipe,
        calibration=None if options.calibration is None else made_images(options.calibration, model),
        layers=options.layers or "*",
        enough_db=options.enough_db,
        engine=options.engine,
    )
    written = write_all(
        {
            options.out: diagnosis.save,
            options.picture: diagnosis.plot,
            options.table: lambda path: write_csv(diagnosis.table(), path),
        }
    )
    return Answer("\n".join([str(diagnosis), *written]), diagnosis.to_json())
