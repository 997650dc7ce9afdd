"""What calls take as recipes, images and calibration; what makes no sense is refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from sensitivity.contracts import Task
from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.calibration import Calibration
from sensitivity.records import Recipe, Scheme
from sensitivity.records.arguments import CHECKED_WHERE_USED

Images: TypeAlias = Annotated[Task | Iterable[Any], CHECKED_WHERE_USED]
"""A task, or preprocessed images."""

CalibrationLike: TypeAlias = Annotated[
    Calibration | Sequence[Calibration] | Task | Iterable[Any] | None, CHECKED_WHERE_USED
]
"""Ranges, or images to measure them on; None takes the last ranges that fit."""


def check_calibration(calibration: object) -> None:
    """Refuse what is neither ranges nor images; images are looked at when they are run.

    Raises:
        CalibrationError: If it is a path, or nothing that can be gone through.
    """
    if isinstance(calibration, (str, Path)):
        raise CalibrationError(
            f"calibration={str(calibration)!r} is a path. Load ranges with sv.Calibration.load(path), or give images "
            "as tensors."
        )
    is_kind = isinstance(calibration, (Calibration, Task, Iterable)) and not isinstance(calibration, (bytes, bytearray))
    if calibration is not None and not is_kind:
        raise CalibrationError(
            f"calibration={calibration!r:.80}: give a Calibration, a list of them, a task, or images."
        )
    if isinstance(calibration, (Sequence, Task)) and len(calibration) == 0:
        raise CalibrationError(
            f"calibration={calibration!r:.80} holds no image to calibrate with. Give at least one; some hundred are "
            "usual."
        )


def check_calibrated(recipe: object) -> list[Recipe]:
    """The recipes to calibrate for: those given, or those of a scheme that quantize activations.

    Raises:
        RecipeError: If there is none, or something else is among them.
    """
    if not isinstance(recipe, Scheme):
        return check_recipes(recipe)
    recipes = [recipe for recipe in recipe.recipes if recipe.needs_calibration]
    if not recipes:
        raise RecipeError("no recipe of this scheme quantizes activations: there is nothing to calibrate.")
    return recipes


def check_recipes(recipe: object) -> list[Recipe]:
    """The recipe or recipes as a list.

    Raises:
        RecipeError: If there is none, or something else is among them.
    """
    items = list(recipe) if isinstance(recipe, Iterable) and not isinstance(recipe, str) else [recipe]
    recipes = [item for item in items if isinstance(item, Recipe)]
    if len(recipes) < len(items):
        wrong = next(item for item in items if not isinstance(item, Recipe))
        raise RecipeError(
            f"recipe={wrong!r:.80} is no recipe. Give one such as sv.INT8, or several in a list; "
            "sv.Recipe(...) makes your own."
        )
    if not recipes:
        raise RecipeError("one or more recipes are needed, and none was given. Give one such as sv.INT8.")
    return recipes
