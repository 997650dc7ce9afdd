"""A task on its first images alone, to try a command or a script out before it runs on all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sensitivity.contracts import (
    Batch,
    Condenses,
    LeavesOut,
    LooksAtPredictions,
    MeanOfInstances,
    MeanOverKinds,
    NeedsReference,
    ScoresPart,
    StaysInProcess,
    Task,
)
from sensitivity.errors import TaskError


class FirstImages:
    """The first images of any task; whatever else the task can do, it does on these.

    A task that takes ``limit=`` itself need not be put in here: it does not even read the other labels.

    Args:
        task: Scores the predictions.
        limit: How many of its images there are, from 1 on; all where it has fewer.

    Raises:
        TaskError: If the limit is below 1.
    """

    def __init__(self, task: Task, limit: int) -> None:
        if limit < 1:
            raise TaskError(f"limit={limit}: give a number of images from 1 on.")
        self.task, self.limit = task, limit
        self.name = f"{task.name}, first {len(self)} images"
        self.metric, self.unit, self.higher_is_better = task.metric, task.unit, task.higher_is_better

    @property
    def stays_in_process(self) -> bool:
        """See ``StaysInProcess``."""
        return isinstance(self.task, StaysInProcess) and self.task.stays_in_process

    @property
    def needs_reference(self) -> bool:
        """See ``NeedsReference``."""
        return isinstance(self.task, NeedsReference) and self.task.needs_reference

    def __len__(self) -> int:
        return min(self.limit, len(self.task))

    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """The task's batches of these images, or of some of them."""
        return self.task.batches(range(len(self)) if images is None else images)

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        """As the task does."""
        return self.task.predict(model, batch)

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """As the task does."""
        return self.task.score(predictions)

    def digest(self) -> str:
        """Of the task's digest and the number of images."""
        return hashlib.sha256(f"first {len(self)} of {self.task.digest()}".encode()).hexdigest()

    def with_reference(self, model: Callable[..., Any]) -> FirstImages:
        """See ``NeedsReference``."""
        if not isinstance(self.task, NeedsReference):
            return self
        return FirstImages(self.task.with_reference(model), self.limit)

    def instances(self) -> Sequence[int] | None:
        """See ``MeanOfInstances``; None where the task's metric is no mean."""
        counts = self.task.instances() if isinstance(self.task, MeanOfInstances) else None
        return None if counts is None else counts[: len(self)]

    def instance_sum(self, prediction: Any) -> float:
        """See ``MeanOfInstances``.

        Raises:
            TaskError: If the task's metric is no mean.
        """
        if not isinstance(self.task, MeanOfInstances):
            raise TaskError(f"{self.metric} of {self.task.name} is no mean over instances.")
        return self.task.instance_sum(prediction)

    def scores_without(self, predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]) -> list[float]:
        """See ``LeavesOut``; one score after the other where the task does not do it faster."""
        if isinstance(self.task, LeavesOut):
            return self.task.scores_without(predictions, groups)
        remaining = (
            {image: predictions[image] for image in predictions if image not in set(group)} for group in groups
        )
        return [self.task.score(part)[self.metric] for part in remaining]

    def images_by_kind(self, predictions: Mapping[int, Any]) -> Sequence[int] | None:
        """See ``MeanOverKinds``; None where the task does not know."""
        return self.task.images_by_kind(predictions) if isinstance(self.task, MeanOverKinds) else None

    def scored_part(self, prediction: Any) -> Any:
        """See ``ScoresPart``."""
        return self.task.scored_part(prediction) if isinstance(self.task, ScoresPart) else prediction

    def condensed(self, predictions: Mapping[int, Any]) -> dict[int, Any]:
        """See ``Condenses``."""
        return self.task.condensed(predictions) if isinstance(self.task, Condenses) else dict(predictions)

    def suspicion(self, predictions: Mapping[int, Any]) -> str | None:
        """See ``LooksAtPredictions``."""
        return self.task.suspicion(predictions) if isinstance(self.task, LooksAtPredictions) else None
