"""``sensitivity analyze``: perturb every layer of a model and score a task each time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sensitivity.cli.arguments import (
    add_engine,
    add_file,
    add_json,
    add_store,
    add_sweep,
    add_workers,
)
from sensitivity.cli.config import add_config, save_config
from sensitivity.cli.models import check_engine
from sensitivity.cli.output import FAILED, INTERRUPTED, Answer, check_place, writing
from sensitivity.cli.sweeps import calibrated, checked_recipes, stop_of
from sensitivity.deploy.engines.registry import engine_names
from sensitivity.errors import EngineError, ExportError
from sensitivity.records.results.note import NoteKind, of_kind

if TYPE_CHECKING:
    from sensitivity.contracts import Task
    from sensitivity.records import Recipe
    from sensitivity.study import Study
    from sensitivity.wrapped import Wrapped


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "analyze",
        help="quantize one layer at a time and score a task each time",
        description="Perturb every layer of a model by itself and score the task each time. With --store it can be "
        "stopped at any time; the same command goes on from there.",
    )
    add_sweep(parser)
    add_store(parser)
    add_file(parser, "--out", "study.json", "where to write", metavar="STUDY.json")
    add_workers(parser, default="auto")
    timed = ", ".join(engine_names(timed=True))
    add_engine(
        parser, "--latency", help=f"then time every layer, for protect --latency; not done by default: on {timed}"
    )
    add_config(parser)
    add_json(parser, "the study")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    recipes = checked_recipes(options)
    for path in (options.store, options.out):
        check_place(path)
    saved = [] if options.save_config is None else [save_config(options.save_config, options.words)]
    if options.latency is not None:
        check_engine(options, options.latency, timed=True).check_runs_here()  # told before the sweep, not after it
    model, task = calibrated(options, recipes)
    study = _analyzed(model.wrapped, task, recipes, options)
    _save(study, options.out)
    interrupted = of_kind(study.notes, NoteKind.INTERRUPTED)
    complaint, code = "; ".join(interrupted), INTERRUPTED if interrupted else 0
    if options.latency is not None and not interrupted:
        study, complaint = _timed(model.wrapped, study, options.latency)
        code = FAILED if complaint else 0
        _save(study, options.out)
    lines = [str(study), f"wrote {options.out}; sensitivity report {options.out} draws it", *saved]
    return Answer("\n".join(lines), study.to_json(), code, complaint)


def _analyzed(wrapped: Wrapped, task: Task, recipes: list[Recipe], options: argparse.Namespace) -> Study:
    from sensitivity.sweep.settings import Sweep

    study = wrapped.analyze(
        task,
        recipes,
        layers=options.layers or "*",
        store=options.store,
        stop=stop_of(options),
        settings=Sweep(workers=options.workers, intervals=not options.no_intervals),
    )
    return study if options.tolerance is None else study.with_tolerance(options.tolerance)


def _timed(wrapped: Wrapped, study: Study, engine: str) -> tuple[Study, str]:
    """The study with the times of every recipe that the engine runs, and what is to say of the others."""
    complaints = []
    for name, each in study.recipes.items():
        try:
            study = study.with_latency(wrapped.latency(each, engine))
        except (ExportError, EngineError) as error:  # the drops are worth keeping without
            complaints.append(f"the study was written and has no times of {name} on {engine}: {error.in_shell}")
    return study, " ".join(complaints)


def _save(study: Study, out: Path) -> None:
    with writing(out):
        study.save(out)
