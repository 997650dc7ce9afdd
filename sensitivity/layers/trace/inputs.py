"""What a model may be fed and may return: tensors, tuples, dicts, dataclasses, and nests of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Every tensor in a nest of tuples, lists, dicts, sets, dataclasses and objects with attributes, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors_in(value)
    elif isinstance(tree, (tuple, list, set, frozenset)):
        for item in tree:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from tensors_in(getattr(tree, field.name))
    elif hasattr(tree, "__dict__") and not callable(tree):
        yield from tensors_in(vars(tree))


def on_device_of(model: nn.Module, inputs: Any) -> Any:
    """The same inputs with every tensor on the device of the model's first parameter."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return inputs
    return tree_map(lambda leaf: leaf.to(parameter.device) if isinstance(leaf, Tensor) else leaf, inputs)
