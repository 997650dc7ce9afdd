"""Any data loader with any metric: an object with ``update``, ``compute`` and ``reset``, as torchmetrics' are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from sensitivity.contracts import Batch
from sensitivity.errors import PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.datasets import as_array, choose_positions, predicted_positions, run_on
from sensitivity.tasks.fingerprint import describe, fingerprint
from sensitivity.tasks.images.loader_batches import LoaderBatches
from sensitivity.tasks.images.samples import alone, as_batch, as_tree, chunks, split


@runtime_checkable
class Metric(Protocol):
    """What ``LoaderTask`` asks of a metric; every ``torchmetrics.Metric`` has it."""

    def update(self, predictions: Any, targets: Any, /) -> Any:
        """Take predictions and targets of some samples into account."""

    def compute(self) -> Any:
        """The metric over all that was taken into account: a number, or a dict of numbers."""

    def reset(self) -> Any:
        """Forget all of it."""


class LoaderTask:
    """The batches of a data loader, scored by a metric object.

    What is a unit of the sweep, which may stop early and has an interval, is a sample where predictions can be told
    apart: a tensor whose first dimension is the batch, a list with one element for each sample, or dicts and tuples of
    these. Where they cannot, it is a batch.

    Args:
        loader: Gives batches ``(inputs, targets)`` in the same order each time it is iterated: a
            ``torch.utils.data.DataLoader`` without shuffling, or a sequence of batches. ``inputs`` is a tensor, a
            tuple or list of what the model's forward takes, or a dict of its keyword arguments.
        metric: Object with ``update(predictions, targets)``, ``compute()`` and ``reset()``, such as
            ``torchmetrics.classification.MulticlassAccuracy(10)``; it is copied, and never changed.
        score: Where ``compute`` returns a dict, the key that layers are judged by; None where it returns a number.
        unpack: Makes ``(inputs, targets)`` of a batch of another form; None for batches that are pairs.
        adapter: Called with the model's raw outputs and the targets of a batch; returns predictions as the metric
            takes them. None for outputs that it takes.
        per_sample: Whether a sample is the unit; False makes it a batch, for predictions that cannot be told apart.
        higher_is_better: Whether a larger metric is a better model; None asks the metric, as torchmetrics' know.
        unit: For people; ``%`` means that the metric is a fraction; None: ``%`` where the metric's bounds are 0 and 1.
        key: Text that stands for the data in the digest; None reads the loader once and hashes what it gives.
        name: Short text for titles.

    Raises:
        TaskError: If the loader shuffles, gives nothing or no pairs, or the metric lacks a method.

    Example:
        >>> import torch
        >>> class Mean:
        ...     higher_is_better = True
        ...     def reset(self): self.values = []
        ...     def update(self, predictions, targets): self.values += (predictions - targets).tolist()
        ...     def compute(self): return sum(self.values) / len(self.values)
        >>> task = LoaderTask([(torch.ones(2), torch.zeros(2)), (torch.ones(1), torch.zeros(1))], metric=Mean())
        >>> predictions = {i: p for batch in task.batches() for i, p in zip(batch.images, task.predict(abs, batch))}
        >>> len(task), task.score(predictions)
        (3, {'Mean': 1.0})
    """

    @checked(TaskError)
    def __init__(
        self,
        loader: Iterable[Any],
        *,
        metric: Any,
        score: str | None = None,
        unpack: Callable[[Any], Any] | None = None,
        adapter: Callable[[Any, Any], Any] | None = None,
        per_sample: bool = True,
        higher_is_better: bool | None = None,
        unit: str | None = None,
        key: str | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(metric, type) or not isinstance(metric, Metric):
            raise TaskError(
                f"metric={metric!r:.120} has no update, compute and reset. Give an object such as "
                "torchmetrics.classification.MulticlassAccuracy(num_classes=10)."
            )
        self._loader = LoaderBatches(loader, unpack, per_sample=per_sample)
        self._metric = copy.deepcopy(metric)
        self._metric.reset()
        self._adapter = adapter
        self._key = key
        self._data_digest: str | None = None
        self.metric = score or type(metric).__name__
        self._score = score
        self.higher_is_better = _direction(metric, higher_is_better)
        self.unit = unit if unit is not None else _unit(metric)
        self.name = name or f"{self.metric} over a loader"

    def __len__(self) -> int:
        return len(self._loader)

    @checked(TaskError)
    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """The loader's data in batches; the context is their targets.

        Args:
            images: Positions wanted, in this order; None for all.

        Raises:
            TaskError: If there is no sample at a position.
        """
        return self._loader.batches(choose_positions(images, len(self)))

    @checked(TaskError)
    def predict(self, model: Callable[..., Any], batch: Batch) -> list[dict[str, Any]]:
        """One prediction for each unit of the batch; the caller turns gradients off.

        Args:
            model: Called with the batch's inputs, on its own device.
            batch: One of ``batches``.

        Returns:
            For each unit ``prediction`` and ``target``, as trees of arrays, as the metric takes them.

        Raises:
            PredictionError: If predictions cannot be told apart by sample.
        """
        outputs = run_on(model, batch)
        predictions = outputs if self._adapter is None else self._adapter(outputs, batch.context)
        if predictions is None:
            raise PredictionError("the adapter returned None; expected predictions. Does it lack a return?")
        if not self._loader.per_sample:
            return [{"prediction": as_tree(predictions), "target": as_tree(batch.context)}]
        count = len(batch.images)
        pairs = zip(split(predictions, count, "predictions"), split(batch.context, count, "targets"), strict=True)
        return [{"prediction": as_tree(prediction), "target": as_tree(target)} for prediction, target in pairs]

    @checked(TaskError)
    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """What the metric computes over the units predicted; what it averages is the metric's business.

        Equal to updating the metric with these samples, up to the order of sums.

        Args:
            predictions: Position of the unit to its prediction.

        Raises:
            TaskError: If there is no prediction, or nothing at a position.
            PredictionError: If the metric gives no number, or not the one that was named.
        """
        predicted_positions(predictions, len(self))
        metric = copy.deepcopy(self._metric)
        units = list(predictions.values())
        for chunk in chunks(units) if self._loader.per_sample else ([unit] for unit in units):
            batch = as_batch if self._loader.per_sample else alone
            metric.update(batch([unit["prediction"] for unit in chunk]), batch([unit["target"] for unit in chunk]))
        return self._numbers(metric.compute())

    def _numbers(self, computed: Any) -> dict[str, float]:
        if not isinstance(computed, Mapping):
            if self._score is not None:
                raise PredictionError(f"the metric gives one value, not a dict with {self._score!r}. Leave score= out.")
            computed = {self.metric: computed}
        arrays = {str(name): as_array(value) for name, value in computed.items()}
        numbers = {name: float(array.reshape(())) for name, array in arrays.items() if array.size == 1}
        if self.metric not in numbers:
            raise PredictionError(
                f"the metric gives {', '.join(map(repr, computed)) or 'nothing'}. Name the one that layers are judged "
                "by: score=, a key whose value is one number."
            )
        if not math.isfinite(numbers[self.metric]):
            raise PredictionError(f"the metric is {numbers[self.metric]}; expected a finite number.")
        return numbers

    def digest(self) -> str:
        """Hash of the data (or of ``key``), the metric with its settings, and the other callables."""
        if self._data_digest is None:
            self._data_digest = self._key if self._key is not None else self._loader.digest()
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        settings = [describe(part) for part in (self._adapter, self._score, self._loader.per_sample)]
        return fingerprint([kind, self._data_digest, *_metric_parts(self._metric), *settings])


def _direction(metric: Any, higher_is_better: bool | None) -> bool:
    known = getattr(metric, "higher_is_better", None) if higher_is_better is None else higher_is_better
    if not isinstance(known, bool):
        raise TaskError(
            f"{type(metric).__name__} does not say whether more is better. Give higher_is_better=True or False."
        )
    return known


def _unit(metric: Any) -> str:
    bounds = getattr(metric, "plot_lower_bound", None), getattr(metric, "plot_upper_bound", None)
    return "%" if bounds == (0.0, 1.0) else ""


def _metric_parts(metric: Any) -> Iterator[str]:
    """Class and plain settings of a metric; what it has counted is not part of it."""
    yield describe(type(metric))
    for name, value in sorted(getattr(metric, "__dict__", {}).items()):
        if not name.startswith("_") and isinstance(value, bool | int | float | str | tuple | type(None)):
            yield f"{name}={value!r}"
