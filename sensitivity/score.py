"""Score a model on a task: predict every batch, then ask the task for its metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sensitivity.contracts import Batch, ScoresPart, Task
from sensitivity.errors import TaskError
from sensitivity.records import Score


def predict(task: Task, model: Callable[..., Any], batch: Batch) -> list[Any]:
    """Predictions of a model on a batch, reduced to what the task scores, in memory of their own.

    Raises:
        TaskError: If the task does not give one prediction for each image.
    """
    predictions = task.predict(model, batch)
    if len(predictions) != len(batch.images):
        raise TaskError(
            f"{task.name} gave {len(predictions)} predictions for {len(batch.images)} images: give one each."
        )
    scored = map(task.scored_part, predictions) if isinstance(task, ScoresPart) else predictions
    return [settled(prediction) for prediction in scored]


def evaluate(
    model: Callable[..., Any],
    task: Task,
    watch: Callable[[int], None] | None = None,
    *,
    before_batch: Callable[[], None] | None = None,
) -> Score:
    """Score a model as it is; the caller sets its mode and turns gradients off.

    Args:
        model: What is scored.
        task: Data and metric.
        watch: Called with the number of images predicted so far after every batch, if given.
        before_batch: Called before every batch, if given, e.g. to let each start from the same state of the model.

    Raises:
        TaskError: If the task has no images or cannot score the predictions.
    """
    predictions: dict[int, Any] = {}
    for batch in task.batches():
        if before_batch is not None:
            before_batch()
        predictions |= dict(zip(batch.images, predict(task, model, batch), strict=True))
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
