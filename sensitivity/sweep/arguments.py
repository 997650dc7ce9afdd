"""Arguments of ``analyze`` that make no sense, found before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sensitivity.contracts import Store, Task
from sensitivity.errors import StoreError, StudyError, TaskError
from sensitivity.perturb.calibration.arguments import check_calibration
from sensitivity.sweep.stopping.race import Confidence
from sensitivity.sweep.storage.journal import check_can_lock

LARGEST_TOLERANCE = 20.0  # points of a metric in percent, from which on a tolerance says nothing


def check_arguments(
    task: object,
    *,
    calibration: object = None,
    store: object = None,
    stop: object = None,
    direction: str = "one-at-a-time",
) -> None:
    """Refuse what is of the wrong kind or out of range.

    Raises:
        TaskError: If the task is none.
        CalibrationError: If the calibration is neither ranges nor images.
        StoreError: If the store is neither a path nor a store, or a path where files cannot be locked.
        StudyError: If the stop is no ``Confidence``, allows drops that no one would, or asks for the worst layers where
            all layers but one are perturbed.
    """
    known = check_task(task)
    check_calibration(calibration)
    if store is not None and not isinstance(store, (str, Path, Store)):
        raise StoreError(f"store={store!r} is no store. Give the path of a file, which is made where there is none.")
    if isinstance(store, (str, Path)):
        check_can_lock()
    check_stop(stop, known)
    if isinstance(stop, Confidence):
        _check_top(stop, direction)


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
        why = (
            f"allows a drop of {stop.tolerance:g} points of {task.metric}. Give a tolerance below "
            f"{LARGEST_TOLERANCE:g}; 0.5 is half a point."
        )
        raise StudyError(
            python=f"stop=Confidence(tolerance={stop.tolerance:g}) {why}", shell=f"--tolerance {stop.tolerance:g} {why}"
        )


def _check_top(stop: Confidence, direction: str) -> None:
    """Refuse to look for the worst layers where the drops are those of all other layers.

    Raises:
        StudyError: If that is asked for.
    """
    if stop.top is not None and direction != "one-at-a-time":
        raise StudyError(
            f"stop=Confidence(top={stop.top}) asks for the layers of the largest drops, and direction={direction!r} "
            "perturbs all other layers. Leave out top=, or take one layer at a time."
        )


def stored_stop(stop: Confidence | None, task: Task) -> Confidence | None:
    """When to stop, with its tolerance as drops are stored: a fraction where people see percent and give points."""
    if stop is None or task.unit != "%":
        return stop
    return replace(stop, tolerance=stop.tolerance / 100.0)
