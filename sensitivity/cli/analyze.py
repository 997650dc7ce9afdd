"""``sensitivity analyze``: disturb every layer of a model and score a task each time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sensitivity.cli.deploy import calibrate
from sensitivity.cli.models import add_engine, add_model, add_task, check_engine, made_images, made_task, made_wrapped
from sensitivity.cli.output import FAILED, INTERRUPTED, Answer, add_tolerance, check_place, writing
from sensitivity.cli.recipes import HELP, recipe
from sensitivity.deploy.engines.registry import engine_names
from sensitivity.errors import CalibrationError, EngineError, ExportError, StudyError
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
    parser.add_argument(
        "--stop", action="store_true", help="give a layer no more images once its drop is decided; needs --tolerance"
    )
    add_tolerance(parser)
    parser.add_argument("--no-intervals", action="store_true", help="score every layer once, without an interval")
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


def run(given: argparse.Namespace) -> Answer:
    """Run the command."""
    recipes = given.recipe or [recipe("int8")]
    needy = [one.name for one in recipes if one.needs_calibration]
    if needy and given.calibration is None:
        raise CalibrationError(
            f"recipe {needy[0]} quantizes activations and needs images to measure their ranges on: give --calibration "
            "package.module:callable, other images than the task's own where there are some."
        )
    if given.stop and not given.tolerance:
        raise StudyError(
            "--stop needs the drop that matters: give --tolerance POINTS above zero, e.g. --tolerance 0.5."
        )
    if given.workers != "auto" and given.workers < 1:
        raise StudyError(f"--workers {given.workers}: give a number of processes from 1 on, or auto.")
    check_place(given.out)
    if given.latency is not None:
        check_engine(given, given.latency, timed=True).check_runs_here()  # told before the sweep, not after it
    wrapped, task = made_wrapped(given), made_task(given.task)
    if given.calibration is not None:
        calibrate(wrapped, made_images(given.calibration), [one for one in recipes if one.needs_calibration])
    study = _analyzed(wrapped, task, recipes, given)
    _save(study, given.out)
    interrupted = of_kind(study.notes, NoteKind.INTERRUPTED)
    complaint, code = "; ".join(interrupted), INTERRUPTED if interrupted else 0
    if given.latency is not None and not interrupted:
        study, complaint = _timed(wrapped, study, given.latency)
        code = FAILED if complaint else 0
        _save(study, given.out)
    text = f"{study}\nwrote {given.out}; sensitivity report {given.out} draws it"
    return Answer(text, study.to_json(), code, complaint)


def _analyzed(wrapped: Wrapped, task: Task, recipes: list[Recipe], given: argparse.Namespace) -> Study:
    from sensitivity.sweep.settings import Sweep
    from sensitivity.sweep.stopping.race import Confidence

    study = wrapped.analyze(
        task,
        recipes,
        layers=given.layers or "*",
        store=given.store,
        stop=Confidence(tolerance=given.tolerance) if given.stop else None,
        settings=Sweep(workers=given.workers, intervals=not given.no_intervals),
    )
    return study if given.tolerance is None else study.with_tolerance(given.tolerance)


def _timed(wrapped: Wrapped, study: Study, engine: str) -> tuple[Study, str]:
    """The study with the times of every recipe that the engine runs, and what is to say of the others."""
    complaints = []
    for name, one in study.recipes.items():
        try:
            study = study.with_latency(wrapped.latency(one, engine))
        except (ExportError, EngineError) as error:  # the drops are worth keeping without
            complaints.append(f"the study was written and has no times of {name} on {engine}: {error}")
    return study, " ".join(complaints)


def _save(study: Study, out: Path) -> None:
    with writing(out):
        study.save(out)
