"""What ``analyze`` and ``explain`` share: what the options of a sweep mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sensitivity.cli.models import NamedModel, add_ranges, made_model, made_task, needing_images
from sensitivity.cli.recipes import READY
from sensitivity.errors import StudyError

if TYPE_CHECKING:
    from sensitivity.contracts import Task
    from sensitivity.records import Recipe
    from sensitivity.sweep.stopping.race import Confidence


def checked_recipes(options: argparse.Namespace) -> list[Recipe]:
    """The recipes of the command line, with what they need.

    Raises:
        CalibrationError: If one quantizes activations and no images were named.
        StudyError: If there is a --stop without the drop that matters.
    """
    recipes: list[Recipe] = options.recipe or [READY["int8"]]
    needing_images(recipes, options.calibration)
    if options.stop and not options.tolerance:
        raise StudyError(
            "--stop needs the drop that matters: give --tolerance POINTS above zero, e.g. --tolerance 0.5."
        )
    return recipes


def calibrated(options: argparse.Namespace, recipes: Sequence[Recipe]) -> tuple[NamedModel, Task]:
    """The model of the command line with the ranges that its recipes need, and the task that scores it."""
    model = made_model(options)
    add_ranges(model, options.calibration, [each for each in recipes if each.needs_calibration])
    return model, made_task(options.task, model, options.limit)


def stop_of(options: argparse.Namespace) -> Confidence | None:
    """When a layer is given no more images; None without --stop."""
    from sensitivity.sweep.stopping.race import Confidence

    return Confidence(tolerance=options.tolerance) if options.stop else None
