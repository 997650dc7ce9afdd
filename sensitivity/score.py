"""Score a model on a task: predict every batch, then ask the task for its metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import numpy as np

from sensitivity.contracts import Batch, LooksAtPredictions, ScoresPart, Task
from sensitivity.errors import SuspiciousPredictionsWarning, TaskError, warn_caller
from sensitivity.records import Score
from sensitivity.turns import process_state


def predict(task: Task, model: Callable[..., Any], batch: Batch) -> list[Any]:
    """Predictions of a model on a batch, reduced to what the task scores, in memory of their own.

    Raises:
        TaskError: If the task does not give one prediction for each image.
    """
    with process_state:
        predictions = task.predict(model, batch)
    if len(predictions) != len(batch.images):
        raise TaskError(
            f"{task.name} gave {len(predictions)} predictions for {len(batch.images)} images: give one each."
        )
    scored = map(task.scored_part, predictions) if isinstance(task, ScoresPart) else predictions
    return [settled(prediction) for prediction in scored]


class FirstLook:
    """Warns once where the first predictions of an unperturbed model look as if an adapter were wrong.

    Args:
        task: Looked at where it is one of ``LooksAtPredictions``.
    """

    def __init__(self, task: Task) -> None:
        self._task = task if isinstance(task, LooksAtPredictions) else None
        self._next = 1

    def is_due(self, images: int) -> bool:
        """Whether ``take`` would look at the predictions on so many images."""
        return self._task is not None and images >= self._next

    def take(self, predictions: Mapping[int, Any]) -> str | None:
        """What was warned of, if that was now.

        Args:
            predictions: All so far; they are looked at after every batch for 16 images, and again where they double,
                the first 64 of them at most.
        """
        count = len(predictions)
        if self._task is None or not self.is_due(count):
            return None
        self._next = count + 1 if count < 16 else 2 * count
        suspicion = self._task.suspicion(dict(islice(predictions.items(), 64)))
        if suspicion is not None or count >= 64:
            self._task = None
        if suspicion is not None:
            warn_caller(suspicion, SuspiciousPredictionsWarning)
        return suspicion


def evaluate(
    model: Callable[..., Any],
    task: Task,
    watch: Callable[[int], None] | None = None,
    *,
    around_batch: Callable[[], AbstractContextManager[None]] = nullcontext,
    unperturbed: bool = False,
) -> Score:
    """Score a model as it is; the caller sets its mode and turns gradients off.

    Args:
        model: What is scored.
        task: Data and metric.
        watch: Called with the number of images predicted so far after every batch, if given.
        around_batch: Gives what is entered for the time of every batch, e.g. to let each start from the same state of
            the model.
        unperturbed: Whether the model is as it was trained, so that a wrong adapter can be told from its predictions.

    Raises:
        TaskError: If the task has no images or cannot score the predictions.
    """
    predictions: dict[int, Any] = {}
    look = FirstLook(task)
    for batch in task.batches():
        with around_batch():
            predictions |= dict(zip(batch.images, predict(task, model, batch), strict=True))
        if unperturbed:
            look.take(predictions)
        if watch is not None:
            watch(len(predictions))
    return score_of(task, predictions)


def score_of(task: Task, predictions: Mapping[int, Any]) -> Score:
    """The task's metrics of predictions.

    Raises:
        TaskError: If there are no predictions, or the task does not report its own metric.
    """
    if not predictions:
        raise TaskError(f"{task.name} has no images: there is nothing to score.")
    metrics = task.score(predictions)
    if task.metric not in metrics:
        raise TaskError(f"{task.name} names {task.metric!r} its metric but reports {', '.join(metrics)}.")
    return Score(metrics[task.metric], metrics, task.metric, task.unit, len(predictions))


def settled(tree: Any) -> Any:
    """The same predictions in memory of their own, arrays in C order as a store gives them back.

    Sums depend on the order in memory; and what ``tensor.numpy()`` gives is overwritten where the model uses a tensor
    again.
    """
    if isinstance(tree, dict):
        return {key: settled(value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(settled(item) for item in tree)
    if isinstance(tree, np.ndarray) and not (tree.flags.c_contiguous and tree.flags.owndata):
        return tree.copy(order="C")
    return tree
