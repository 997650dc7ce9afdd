"""The samples of a batch, told apart and joined again: trees of tensors, dicts and lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from sensitivity.errors import PredictionError
from sensitivity.tasks.fingerprint import describe

UPDATED_AT_ONCE = 64
"""Most samples that one call of a metric's ``update`` gets."""


def picked(value: Any, offsets: list[int], count: int) -> Any:
    """The samples at some offsets of a batch, in the batch's own form; what has no batch dimension as it is."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value[offsets] if value.ndim and len(value) == count else value
    if isinstance(value, Mapping):
        return {key: picked(part, offsets, count) for key, part in value.items()}
    if _is_by_sample(value, count):
        return [value[offset] for offset in offsets]
    return tuple(picked(part, offsets, count) for part in value) if isinstance(value, tuple) else value


def with_own_tensors(tree: Any) -> Any:
    """The same tree with a copy of every tensor: a model may write to what it is given."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, tree)


def _is_by_sample(value: Any, count: int) -> bool:
    """Whether a value is a list with an element for each sample; a tuple is one where its elements are dicts."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return False
    return isinstance(value, list) or all(isinstance(element, Mapping) for element in value)


def split(value: Any, count: int, noun: str) -> list[Any]:
    """A batch's tree as one tree for each sample.

    Raises:
        PredictionError: If something in it is not one for each sample.
    """
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim and len(value) == count:
        return list(value)
    if isinstance(value, Mapping):
        parts = {key: split(part, count, noun) for key, part in value.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(count)]
    if _is_by_sample(value, count):
        return list(value)
    if isinstance(value, tuple):
        columns = [split(part, count, noun) for part in value]
        return [tuple(column[i] for column in columns) for i in range(count)]
    described = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
    raise PredictionError(
        f"the {noun} {described} cannot be told apart for {count} samples. Return one for each sample from adapter=, "
        "or set per_sample=False, so that a batch is the unit."
    )


def as_tree(value: Any) -> Any:
    """Tensors as arrays, so that predictions can be kept; bfloat16 as float32."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
    if isinstance(value, Mapping):
        return {str(key): as_tree(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_tree(part) for part in value]
    return value


def as_tensors(value: Any) -> Any:
    """Arrays as tensors, as a metric takes them."""
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    if isinstance(value, Mapping):
        return {key: as_tensors(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_tensors(part) for part in value]
    return value


def chunks(units: Sequence[Any]) -> Iterator[list[Any]]:
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


def as_batch(values: list[Any]) -> Any:
    """Samples as one batch: arrays and numbers stacked, dicts (a detector's) as a list of them."""
    if isinstance(values[0], np.ndarray | np.generic | int | float):
        return torch.from_numpy(np.stack([np.asarray(value) for value in values]))
    return [as_tensors(value) for value in values]


def alone(values: list[Any]) -> Any:
    """The only one of these, with tensors."""
    return as_tensors(values[0])


def leaves(value: Any) -> Iterator[str | bytes]:
    """All that a tree holds, for a hash."""
    if isinstance(value, torch.Tensor):
        value = as_tree(value)
    if isinstance(value, np.ndarray):
        yield f"{value.shape} {value.dtype}"
        yield value.tobytes()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key)
            yield from leaves(part)
    elif isinstance(value, list | tuple):
        yield f"{len(value)}"
        for part in value:
            yield from leaves(part)
    else:
        yield describe(value)
