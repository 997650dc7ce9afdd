"""Any data loader with any metric: an object with ``update``, ``compute`` and ``reset``, as torchmetrics' are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from sensitivity.contracts import Batch
from sensitivity.errors import PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.datasets import as_array, choose_positions, predicted_positions, run_on
from sensitivity.tasks.fingerprint import describe, fingerprint

UPDATED_AT_ONCE = 64
"""Most samples that one call of a metric's ``update`` gets."""


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
            ``torch.utils.data.DataLoader`` without shuffling, or a sequence of batches. ``inputs`` is a tensor, or a
            tuple or list of what the model's forward takes.
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
        self._loader = _Loader(loader, unpack, per_sample=per_sample)
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
        outputs = run_on(model, batch.inputs)
        predictions = outputs if self._adapter is None else self._adapter(outputs, batch.context)
        if not self._loader.per_sample:
            return [{"prediction": _as_tree(predictions), "target": _as_tree(batch.context)}]
        count = len(batch.images)
        pairs = zip(_split(predictions, count, "predictions"), _split(batch.context, count, "targets"), strict=True)
        return [{"prediction": _as_tree(prediction), "target": _as_tree(target)} for prediction, target in pairs]

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
        for chunk in _chunks(units) if self._loader.per_sample else ([unit] for unit in units):
            joined = _join if self._loader.per_sample else _only
            metric.update(joined([unit["prediction"] for unit in chunk]), joined([unit["target"] for unit in chunk]))
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


class _Loader:
    """A loader whose samples, or batches, have positions."""

    def __init__(self, loader: Iterable[Any], unpack: Callable[[Any], Any] | None, *, per_sample: bool) -> None:
        self.per_sample = per_sample
        self._unpack = unpack
        if isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler):
            raise TaskError("loader= shuffles, so that positions mean nothing. Make the DataLoader with shuffle=False.")
        if isinstance(loader, Iterator):
            raise TaskError("loader= can be iterated once only. Give a DataLoader, or a list of batches.")
        self._loader = loader
        self._subsets = (
            per_sample
            and isinstance(loader, DataLoader)
            and not isinstance(loader.dataset, IterableDataset)
            and isinstance(loader.sampler, SequentialSampler)
            and loader.batch_size is not None
            and not loader.drop_last
        )
        self._sizes = self._count()
        if not sum(self._sizes):
            raise TaskError("loader= gives no batches.")

    def __len__(self) -> int:
        return sum(self._sizes)

    def _count(self) -> list[int]:
        """Units in each batch."""
        if self._subsets:
            first = next(iter(self._loader), None)
            if first is not None:
                self._pair(first)
            return [len(self._loader.dataset)]  # type: ignore[attr-defined]
        sizes = [_batch_length(self._pair(batch)[0]) for batch in self._loader]
        return sizes if self.per_sample else [1] * len(sizes)

    def _pair(self, batch: Any) -> tuple[tuple[Any, ...], Any]:
        unpacked = batch if self._unpack is None else self._unpack(batch)
        if not isinstance(unpacked, list | tuple) or len(unpacked) != 2:
            raise TaskError(
                f"loader= gives batches of {type(unpacked).__name__}, not pairs (inputs, targets). Give unpack=, which "
                "makes such a pair of a batch."
            )
        inputs, targets = unpacked
        return (tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)), targets

    def batches(self, positions: tuple[int, ...]) -> Iterator[Batch]:
        if self._subsets:
            yield from self._of_subset(positions)
            return
        runs = list(_runs(positions, np.cumsum([0, *self._sizes])))
        for run, batch in zip(runs, self._in_order([run.batch for run in runs]), strict=True):
            inputs, targets = self._pair(batch)
            if self.per_sample:
                count = self._sizes[run.batch]
                inputs = tuple(_pick(value, run.offsets, count) for value in inputs)
                targets = _pick(targets, run.offsets, count)
            yield Batch(inputs=inputs, images=run.positions, context=targets)

    def _in_order(self, numbers: list[int]) -> Iterator[Any]:
        """The loader's batches of these numbers; kept in memory only where they are asked for out of order."""
        if numbers == sorted(set(numbers)):
            wanted = set(numbers)
            yield from (batch for number, batch in enumerate(self._loader) if number in wanted)
        else:
            held = {number: batch for number, batch in enumerate(self._loader) if number in numbers}
            yield from (held[number] for number in numbers)

    def _of_subset(self, positions: tuple[int, ...]) -> Iterator[Batch]:
        loader: Any = self._loader
        subset = DataLoader(
            Subset(loader.dataset, positions),
            batch_size=loader.batch_size,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
        )
        first = 0
        for batch in subset:
            inputs, targets = self._pair(batch)
            last = min(first + loader.batch_size, len(positions))
            yield Batch(inputs=inputs, images=positions[first:last], context=targets)
            first = last

    def digest(self) -> str:
        return fingerprint(part for batch in self._loader for part in _leaves(self._pair(batch)))


class _Run:
    """Positions that follow one another and lie in one batch."""

    def __init__(self, batch: int, positions: tuple[int, ...], offsets: list[int]) -> None:
        self.batch = batch
        self.positions = positions
        self.offsets = offsets


def _runs(positions: Sequence[int], first: Any) -> Iterator[_Run]:
    start = 0
    batches = [int(np.searchsorted(first, position, side="right")) - 1 for position in positions]
    for i in range(1, len(positions) + 1):
        if i == len(positions) or batches[i] != batches[start]:
            chosen = tuple(positions[start:i])
            yield _Run(batches[start], chosen, [position - int(first[batches[start]]) for position in chosen])
            start = i


def _batch_length(inputs: tuple[Any, ...]) -> int:
    sized = [value for value in inputs if isinstance(value, torch.Tensor | np.ndarray) and value.ndim]
    if sized:
        return len(sized[0])
    return len(inputs[0]) if inputs and isinstance(inputs[0], list | tuple) else 1


def _pick(value: Any, offsets: list[int], count: int) -> Any:
    """The samples at some offsets of a batch, in the batch's own form; what has no batch dimension as it is."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value[offsets] if value.ndim and len(value) == count else value
    if isinstance(value, Mapping):
        return {key: _pick(part, offsets, count) for key, part in value.items()}
    if _is_by_sample(value, count):
        return [value[offset] for offset in offsets]
    return tuple(_pick(part, offsets, count) for part in value) if isinstance(value, tuple) else value


def _is_by_sample(value: Any, count: int) -> bool:
    """Whether a value is a list with an element for each sample; a tuple is one where its elements are dicts."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return False
    return isinstance(value, list) or all(isinstance(element, Mapping) for element in value)


def _split(value: Any, count: int, noun: str) -> list[Any]:
    """A batch's tree as one tree for each sample.

    Raises:
        PredictionError: If something in it is not one for each sample.
    """
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim and len(value) == count:
        return list(value)
    if isinstance(value, Mapping):
        parts = {key: _split(part, count, noun) for key, part in value.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(count)]
    if _is_by_sample(value, count):
        return list(value)
    if isinstance(value, tuple):
        columns = [_split(part, count, noun) for part in value]
        return [tuple(column[i] for column in columns) for i in range(count)]
    described = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
    raise PredictionError(
        f"the {noun} {described} cannot be told apart for {count} samples. Return one for each sample from adapter=, "
        "or set per_sample=False, so that a batch is the unit."
    )


def _as_tree(value: Any) -> Any:
    """Tensors as arrays, so that predictions can be kept; bfloat16 as float32."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
    if isinstance(value, Mapping):
        return {str(key): _as_tree(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_tree(part) for part in value]
    return value


def _as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    if isinstance(value, Mapping):
        return {key: _as_tensors(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_tensors(part) for part in value]
    return value


def _chunks(units: Sequence[Any]) -> Iterator[list[Any]]:
    """Units that can be updated at once: their arrays have the same shapes."""
    chunk: list[Any] = []
    for unit in units:
        if chunk and (len(chunk) == UPDATED_AT_ONCE or _shapes(unit) != _shapes(chunk[0])):
            yield chunk
            chunk = []
        chunk.append(unit)
    if chunk:
        yield chunk


def _shapes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shapes(part) for key, part in value.items()}
    return np.shape(value) if isinstance(value, np.ndarray | np.generic | int | float) else type(value).__name__


def _join(values: list[Any]) -> Any:
    """Samples as one batch: arrays and numbers stacked, dicts (a detector's) as a list of them."""
    if isinstance(values[0], np.ndarray | np.generic | int | float):
        return torch.from_numpy(np.stack([np.asarray(value) for value in values]))
    return [_as_tensors(value) for value in values]


def _only(values: list[Any]) -> Any:
    return _as_tensors(values[0])


def _leaves(value: Any) -> Iterator[str | bytes]:
    if isinstance(value, torch.Tensor):
        value = _as_tree(value)
    if isinstance(value, np.ndarray):
        yield f"{value.shape} {value.dtype}"
        yield value.tobytes()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key)
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        yield f"{len(value)}"
        for part in value:
            yield from _leaves(part)
    else:
        yield describe(value)


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
