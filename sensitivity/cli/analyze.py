"""``sensitivity analyze``: perturb every layer of a model and score a task each time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sensitivity.cli.models import add_engine, check_engine, made_task
from sensitivity.cli.output import FAILED, INTERRUPTED, Answer, add_file, check_place, writing
from sensitivity.cli.sweeps import add_sweep, calibrated, checked_recipes, stop_of
from sensitivity.deploy.engines.registry import engine_names
from sensitivity.errors import EngineError, ExportError, StudyError
from sensitivity.records.note import NoteKind, of_kind

if TYPE_CHECKING:
    from sensitivity.contracts import Task
    from sensitivity.records import Recipe
    from sensitivity.study import Study
    from sensitivity.sweep.settings import Workers
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
    parser.add_argument("--store", type=Path, metavar="FILE", help="keep every result here, and go on from it")
    add_file(parser, "--out", "study.json", "where to write", metavar="STUDY.json")
    parser.add_argument(
        "--workers",
        type=_workers,
        default="auto",
        metavar="N",
        help="run in N processes; 1 runs in a single other one (default: auto, every core where that is faster)",
    )
    timed = ", ".join(engine_names(timed=True))
    add_engine(
        parser, "--latency", help=f"then time every layer, for protect --latency; not done by default: on {timed}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: the study")
    parser.set_defaults(run=run)


def _workers(text: str) -> int | Workers:
    """A number of processes, or ``auto``."""
    return "auto" if text == "auto" else int(text)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    recipes = checked_recipes(options)
    if options.workers != "auto" and options.workers < 1:
        raise StudyError(f"--workers {options.workers}: give a number of processes from 1 on, or auto.")
    check_place(options.out)
    if options.latency is not None:
        check_engine(options, options.latency, timed=True).check_runs_here()  # told before the sweep, not after it
    wrapped, task = calibrated(options, recipes), made_task(options.task)
    study = _analyzed(wrapped, task, recipes, options)
    _save(study, options.out)
    interrupted = of_kind(study.notes, NoteKind.INTERRUPTED)
    complaint, code = "; ".join(interrupted), INTERRUPTED if interrupted else 0
    if options.latency is not None and not interrupted:
        study, complaint = _timed(wrapped, study, options.latency)
        code = FAILED if complaint else 0
        _save(study, options.out)
    text = f"{study}\nwrote {options.out}; sensitivity report {options.out} draws it"
    return Answer(text, study.to_json(), code, complaint)


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
            complaints.append(f"the study was written and has no times of {name} on {engine}: {error}")
    return study, " ".join(complaints)


def _save(study: Study, out: Path) -> None:
    with writing(out):
        study.save(out)
