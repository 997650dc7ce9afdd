"""Any metric at all, as a function of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sensitivity.contracts import Batch
from sensitivity.errors import PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.datasets import choose_positions
from sensitivity.tasks.fingerprint import describe, fingerprint


class CallbackTask:
    """A task that is one call of a function; made by ``callback_task``.

    Attributes:
        stays_in_process: True: what the function keeps or shows between calls would be lost in another process.
    """

    stays_in_process = True

    def __init__(
        self,
        function: Callable[[Any], float | Mapping[str, float]],
        *,
        metric: str,
        unit: str,
        higher_is_better: bool,
        name: str,
        key: str,
    ) -> None:
        self.name = name
        self.metric = metric
        self.unit = unit
        self.higher_is_better = higher_is_better
        self._function = function
        self._key = key

    def __len__(self) -> int:
        return 1

    @checked(TaskError)
    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """One batch without inputs: the function brings its own data.

        Raises:
            TaskError: If anything but the position 0 is asked for.
        """
        return (Batch(inputs=(), images=(position,)) for position in choose_positions(images, 1))

    @checked(TaskError)
    def predict(self, model: Callable[..., Any], batch: Batch) -> list[dict[str, float]]:
        """The metrics that the function found; the caller turns gradients off.

        Args:
            model: What the function is called with.
            batch: The one of ``batches``.

        Raises:
            PredictionError: If the function returns neither a finite number nor a mapping with one for the metric.
        """
        result = self._function(model)
        metrics = dict(result) if isinstance(result, Mapping) else {self.metric: result}
        if self.metric not in metrics:
            raise PredictionError(f"the function returned no {self.metric!r}, only {sorted(metrics)}. Set metric=.")
        try:
            numbers = {metric: float(value) for metric, value in metrics.items()}
        except (TypeError, ValueError) as error:
            raise PredictionError(f"the function returned {result!r}; expected a number, or a dict of them.") from error
        if not math.isfinite(numbers[self.metric]):
            raise PredictionError(
                f"the function returned {numbers[self.metric]} as {self.metric!r}; expected a finite number."
            )
        return [numbers for _ in batch.images]

    @checked(TaskError)
    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """The metrics as the function returned them: what they average and what absent classes do is its business.

        Raises:
            TaskError: If there is no prediction.
        """
        if not predictions:
            raise TaskError("no prediction to score. Give the one for position 0.")
        choose_positions(list(predictions), 1)
        return dict(predictions[0])

    def digest(self) -> str:
        """Hash of the function's name (see ``fingerprint.describe``), ``key`` and the metric's name."""
        return fingerprint(["callback", describe(self._function), self._key, self.metric])


@checked(TaskError)
def callback_task(
    function: Callable[[Any], float | Mapping[str, float]],
    *,
    metric: str = "score",
    unit: str = "",
    higher_is_better: bool = True,
    name: str = "callback",
    key: str = "",
) -> CallbackTask:
    """A task of any function of the model, evaluated as a whole, as if the data were one image.

    The sweep cannot stop early, compute intervals or resume within a layer: these need a task that scores images.

    Args:
        function: Called with the model; returns a number, or a dict of numbers of which one is named ``metric``.
        metric: The metric that layers are judged by.
        unit: For people; ``%`` means that the function returns fractions.
        higher_is_better: Whether a larger metric is a better model.
        name: Short text for titles.
        key: Text that changes when the function's data or code do: results stored under another key are not taken for
            this task's.

    Example:
        >>> task = callback_task(lambda model: model(2.0), metric="output")
        >>> [batch] = task.batches()
        >>> task.score({0: task.predict(abs, batch)[0]})
        {'output': 2.0}
    """
    return CallbackTask(function, metric=metric, unit=unit, higher_is_better=higher_is_better, name=name, key=key)
