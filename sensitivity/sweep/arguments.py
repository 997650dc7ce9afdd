"""Arguments of ``analyze`` that make no sense, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sensitivity.contracts import Store, Task
from sensitivity.errors import CalibrationError, RecipeError, StoreError, StudyError, TaskError
from sensitivity.quantize.calibration import Calibration
from sensitivity.records import Recipe, Scheme
from sensitivity.sweep.stopping.race import Confidence
from sensitivity.sweep.storage.journal import check_can_lock

LARGEST_TOLERANCE = 20.0  # points of a metric in percent, from which on a tolerance says nothing


def check_arguments(
    task: object,
    *,
    calibration: object = None,
    store: object = None,
    stop: object = None,
) -> None:
    """Refuse what is of the wrong kind or out of range.

    Raises:
        TaskError: If the task is none.
        CalibrationError: If the calibration is neither ranges nor images.
        StoreError: If the store is neither a path nor a store, or a path where files cannot be locked.
        StudyError: If the stop is no ``Confidence``, or allows drops that no one would.
    """
    known = check_task(task)
    check_calibration(calibration)
    if store is not None and not isinstance(store, (str, Path, Store)):
        raise StoreError(f"store={store!r} is no store. Give the path of a file, which is made where there is none.")
    if isinstance(store, (str, Path)):
        check_can_lock()
    check_stop(stop, known)


def check_task(task: object) -> Task:
    """The task; what is none is refused.

    Raises:
        TaskError: If it lacks a part of ``Task``.
    """
    if not isinstance(task, Task):
        raise TaskError(
            f"task={task!r:.80} is no task. Give one of sv's, sv.callback_task(function), or an object with the "
            "methods of sensitivity.contracts.Task."
        )
    return task


def check_calibration(given: object) -> None:
    """Refuse what is neither ranges nor images; images are looked at when they are run.

    Raises:
        CalibrationError: If it is a path, or nothing that can be gone through.
    """
    if isinstance(given, (str, Path)):
        raise CalibrationError(
            f"calibration={str(given)!r} is a path. Load ranges with sv.Calibration.load(path), or give images as "
            "tensors."
        )
    wrong = not isinstance(given, (Calibration, Task, Iterable)) or isinstance(given, (bytes, bytearray))
    if given is not None and wrong:
        raise CalibrationError(f"calibration={given!r:.80}: give a Calibration, a list of them, a task, or images.")
    if isinstance(given, (Sequence, Task)) and len(given) == 0:
        raise CalibrationError(
            f"calibration={given!r:.80} holds no image to calibrate with. Give at least one; some hundred are usual."
        )


def check_calibrated(given: object) -> list[Recipe]:
    """The recipes to calibrate for: those given, or those of a scheme that quantize activations.

    Raises:
        RecipeError: If there is none, or something else is among them.
    """
    if not isinstance(given, Scheme):
        return check_recipes(given)
    recipes = [recipe for recipe in given.recipes if recipe.needs_calibration]
    if not recipes:
        raise RecipeError("no recipe of this scheme quantizes activations: there is nothing to calibrate.")
    return recipes


def check_recipes(given: object) -> list[Recipe]:
    """The recipe or recipes as a list.

    Raises:
        RecipeError: If there is none, or something else is among them.
    """
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    wrong = [one for one in found if not isinstance(one, Recipe)]
    if wrong:
        raise RecipeError(
            f"recipe={wrong[0]!r:.80} is no recipe. Give one such as sv.INT8, or several in a list; "
            "sv.Recipe(...) makes your own."
        )
    if not found:
        raise RecipeError("one or more recipes are needed, and none was given. Give one such as sv.INT8.")
    return [one for one in found if isinstance(one, Recipe)]


def check_stop(stop: object, task: Task) -> None:
    """Refuse what says not when to stop, or allows drops that no one would.

    Raises:
        StudyError: If it is no ``Confidence``, or of a metric in percent and with a tolerance of many points.
    """
    if stop is None:
        return
    if not isinstance(stop, Confidence):
        raise StudyError(
            f"stop={stop!r} says not when to stop. Give sv.Confidence(tolerance=0.5, level=0.95), or None."
        )
    if task.unit == "%" and stop.tolerance >= LARGEST_TOLERANCE:
        raise StudyError(
            f"stop=Confidence(tolerance={stop.tolerance:g}) allows a drop of {stop.tolerance:g} points of "
            f"{task.metric}. Give a tolerance below {LARGEST_TOLERANCE:g}; 0.5 is half a point."
        )


def stored_stop(stop: Confidence | None, task: Task) -> Confidence | None:
    """When to stop, with its tolerance as drops are stored: a fraction where people see percent and give points."""
    if stop is None or task.unit != "%":
        return stop
    return replace(stop, tolerance=stop.tolerance / 100.0)
