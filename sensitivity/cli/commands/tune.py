"""``sensitivity tune``: search for a scheme that meets a target, measured with the task. Exit code 1 if none does."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from sensitivity.cli.arguments import (
    add_calibration,
    add_engine,
    add_file,
    add_json,
    add_model,
    add_picture,
    add_recipes,
    add_stop,
    add_store,
    add_table,
    add_task,
    add_workers,
    size,
    time_above_zero,
    tolerance,
)
from sensitivity.cli.models import check_engine, made_images, made_model, made_task
from sensitivity.cli.output import FAILED, Answer, check_place, write_all
from sensitivity.deploy.engines.registry import engine_names
from sensitivity.errors import CalibrationError, StudyError
from sensitivity.records.results.tuned import Goal
from sensitivity.report.tables.csv_file import write_csv

NO_ENGINE = "none"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tune",
        help="search for a scheme that meets a target: cures first, float last",
        description="Measure whole networks under several recipes, then other recipes for single layers, then layers "
        "in float, until a target is met. Exits with 1 where it cannot be met. With --store it can be stopped at any "
        "time; the same command goes on from there.",
    )
    add_model(parser)
    add_task(parser)
    add_calibration(parser)
    _add_target(parser)
    add_engine(
        parser,
        "--engine",
        default="openvino",
        help=f"what the scheme is for: {', '.join(engine_names())}, or {NO_ENGINE} to search in the simulation alone "
        "(default: %(default)s)",
    )
    add_recipes(parser, "a candidate: ", "several of 8 bits, with --size-bytes fewer as well")
    add_store(parser)
    add_stop(parser, "give a scheme no more images once it is known to meet --max-drop or not; the one chosen sees all")
    parser.add_argument("--explain", action="store_true", help="tell what the search will cost, and end")
    add_workers(parser, default=None)
    _add_files(parser)
    add_json(parser, "what tuned.json holds")
    parser.set_defaults(run=run)


def _add_target(parser: argparse.ArgumentParser) -> None:
    target = parser.add_argument_group("target", "one of these or several")
    target.add_argument(
        "--max-drop", type=tolerance, metavar="POINTS", help="largest drop, in points where it is in %%"
    )
    target.add_argument(
        "--size-bytes", type=size, metavar="BYTES", help="most bytes of all layers' parameters, e.g. 800KiB"
    )
    target.add_argument(
        "--latency-s", type=time_above_zero, metavar="SECONDS", help="most seconds of one run on the engine"
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    add_file(parser, "--out", "tuned.json", "the scheme and every step of the way there")
    add_file(parser, "--scheme", "tuned_scheme.json", "the scheme alone, for deploy and verify")
    add_picture(parser, "--picture", "the score of every step", "path.png")
    add_table(parser, "step")


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    from sensitivity.sweep.settings import Sweep
    from sensitivity.sweep.stopping.race import Confidence

    _check(options)
    goal = Goal(options.max_drop, options.size_bytes, options.latency_s)
    engine = None if options.engine == NO_ENGINE else options.engine
    if engine is not None:
        check_engine(options, engine, timed=goal.latency_s is not None)
    model = made_model(options)
    wrapped, task = model.wrapped, made_task(options.task, model, options.limit)
    request: dict[str, Any] = {
        "max_drop": goal.max_drop,
        "size_bytes": goal.size_bytes,
        "latency_s": goal.latency_s,
        "engine": engine,
        "calibration": None if options.calibration is None else made_images(options.calibration, model),
        "candidates": options.recipe,
        "stop": Confidence(tolerance=options.max_drop) if options.stop else None,
    }
    if options.explain:
        cost = wrapped.explain_tune(task, **request)
        return Answer(str(cost), asdict(cost))
    with Sweep(workers=options.workers).workplace() as executor:
        tuned = wrapped.tune(task, store=options.store, executor=executor, **request)
    written = write_all(
        {
            options.out: tuned.save,
            options.scheme: tuned.scheme.save,
            options.picture: tuned.plot,
            options.table: lambda path: write_csv(tuned.table(), path),
        }
    )
    complaint = "" if tuned.met else tuned.notes[-1]
    return Answer("\n".join([str(tuned), *written]), tuned.to_json(), 0 if tuned.met else FAILED, complaint)


def _check(options: argparse.Namespace) -> None:
    """Tell what cannot work before anything is loaded.

    Raises:
        CalibrationError: If a candidate needs images and none were named.
        StudyError: If an option makes no sense without another one, or with its value.
        SensitivityError: If a file cannot be written.
    """
    if options.max_drop is None and options.size_bytes is None and options.latency_s is None:
        raise StudyError("tune needs a target: give --max-drop, --size-bytes or --latency-s, or several of them.")
    needy = options.recipe is None or any(candidate.needs_calibration for candidate in options.recipe)
    if needy and options.calibration is None:
        raise CalibrationError(
            "the candidates quantize activations and need images to measure their ranges on: give --calibration "
            "package.module:callable, other images than the task's own where there are some."
        )
    if options.stop and not options.max_drop:
        raise StudyError("--stop needs the drop that matters: give --max-drop POINTS above zero, e.g. --max-drop 0.5.")
    for path in (options.store, options.out, options.scheme, options.picture, options.table):
        check_place(path)
