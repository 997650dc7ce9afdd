"""A data loader's samples, or batches, by their positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from sensitivity.contracts import Batch
from sensitivity.contracts.task import arguments_of
from sensitivity.errors import TaskError
from sensitivity.tasks.fingerprint import fingerprint
from sensitivity.tasks.images.samples import leaves, picked, with_own_tensors


class LoaderBatches:
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
        """Units in each batch.

        Raises:
            TaskError: If the loader's first batch is another one each time, or is no pair.
        """
        first = [fingerprint(leaves(self._pair(batch))) for _ in range(2) for batch in islice(self._loader, 1)]
        if len(set(first)) > 1:
            raise TaskError(
                "loader= gives other batches each time it is read, so that positions mean nothing: it draws "
                "or augments at random. Make the DataLoader with shuffle=False, and with transforms for evaluation."
            )
        if self._subsets:
            return [len(self._loader.dataset)]  # type: ignore[attr-defined]
        sizes = [_batch_length(self._pair(batch)[0]) for batch in self._loader]
        return sizes if self.per_sample else [1] * len(sizes)

    def _pair(self, batch: Any) -> tuple[tuple[Any, ...] | Mapping[str, Any], Any]:
        unpacked = batch if self._unpack is None else self._unpack(batch)
        if not isinstance(unpacked, list | tuple) or len(unpacked) != 2:
            raise TaskError(
                f"loader= gives batches of {type(unpacked).__name__}, not pairs (inputs, targets). Give unpack=, which "
                "makes such a pair of a batch."
            )
        inputs, targets = unpacked
        if isinstance(inputs, Mapping):
            return inputs, targets
        return (tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)), targets

    def batches(self, positions: tuple[int, ...]) -> Iterator[Batch]:
        """The samples at these positions, or the batches, in this order."""
        if self._subsets:
            yield from self._of_subset(positions)
            return
        runs = list(_runs(positions, np.cumsum([0, *self._sizes])))
        for run, batch in zip(runs, self._in_order([run.batch for run in runs]), strict=True):
            inputs, targets = self._pair(batch)
            args, keywords = arguments_of(inputs)
            if self.per_sample:
                count = self._sizes[run.batch]
                args = tuple(picked(value, run.offsets, count) for value in args)
                keywords, targets = (picked(values, run.offsets, count) for values in (keywords, targets))
            else:
                args, keywords = with_own_tensors((args, keywords))
            yield Batch(inputs=args, images=run.positions, context=targets, keywords=keywords)

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
            args, keywords = arguments_of(inputs)
            yield Batch(inputs=args, images=positions[first:last], context=targets, keywords=keywords)
            first = last

    def digest(self) -> str:
        """Hash of all inputs and targets."""
        return fingerprint(part for batch in self._loader for part in leaves(self._pair(batch)))


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


def _batch_length(inputs: Any) -> int:
    args, keywords = arguments_of(inputs)
    inputs = (*args, *keywords.values())
    sized = [value for value in inputs if isinstance(value, torch.Tensor | np.ndarray) and value.ndim]
    if sized:
        return len(sized[0])
    return len(inputs[0]) if inputs and isinstance(inputs[0], list | tuple) else 1
