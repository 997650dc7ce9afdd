"""What ``analyze`` and ``explain`` share: the options that say what a sweep measures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sensitivity.cli.deploy import calibrate, needing_images
from sensitivity.cli.models import add_layers, add_model, add_task, made_images, made_wrapped
from sensitivity.cli.output import add_tolerance
from sensitivity.cli.recipes import HELP, recipe
from sensitivity.errors import StudyError

if TYPE_CHECKING:
    from sensitivity.records import Recipe
    from sensitivity.sweep.stopping.race import Confidence
    from sensitivity.wrapped import Wrapped


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, TASK, and the options that say what is measured."""
    add_model(parser)
    add_task(parser)
    parser.add_argument("--recipe", action="append", type=recipe, metavar="RECIPE", help=f"{HELP} (default: int8)")
    add_layers(parser)
    parser.add_argument(
        "--stop", action="store_true", help="give a layer no more images once its drop is decided; needs --tolerance"
    )
    add_tolerance(parser)
    parser.add_argument("--no-intervals", action="store_true", help="score every layer once, without an interval")


def checked_recipes(options: argparse.Namespace) -> list[Recipe]:
    """The recipes of the command line, with what they need.

    Raises:
        CalibrationError: If one quantizes activations and no images were named.
        StudyError: If there is a --stop without the drop that matters.
    """
    recipes: list[Recipe] = options.recipe or [recipe("int8")]
    needing_images(recipes, options.calibration)
    if options.stop and not options.tolerance:
        raise StudyError(
            "--stop needs the drop that matters: give --tolerance POINTS above zero, e.g. --tolerance 0.5."
        )
    return recipes


def calibrated(options: argparse.Namespace, recipes: Sequence[Recipe]) -> Wrapped:
    """The model of the command line, with the ranges that its recipes need."""
    wrapped = made_wrapped(options)
    if options.calibration is not None:
        calibrate(wrapped, made_images(options.calibration), [each for each in recipes if each.needs_calibration])
    return wrapped


def stop_of(options: argparse.Namespace) -> Confidence | None:
    """When a layer is given no more images; None without --stop."""
    from sensitivity.sweep.stopping.race import Confidence

    return Confidence(tolerance=options.tolerance) if options.stop else None
