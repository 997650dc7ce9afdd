"""What a model may be fed and may return: tensors, tuples, dicts, dataclasses, and nests of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sensitivity.errors import CalibrationError


def arguments_of(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward pass.

    Args:
        example_inputs: A tuple gives positional arguments, a dict with text keys keyword arguments, anything else
            (a tensor, a list of images) is the one positional argument.
    """
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    if isinstance(example_inputs, Mapping) and all(isinstance(key, str) for key in example_inputs):
        return (), dict(example_inputs)
    return (example_inputs,), {}


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


def batches_like(images: Iterable[Any], example_inputs: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], int]]:
    """Calibration images as arguments of the model.

    Args:
        images: Batches as the model takes them, single images without the batch axis, or what a ``DataLoader`` with
            labels gives (the first of each pair is used where the model takes one tensor).
        example_inputs: What the model takes.

    Yields:
        Positional arguments, keyword arguments and the number of images in them.

    Raises:
        CalibrationError: If an item is no tensor, tuple or dict of tensors.
    """
    single = isinstance(example_inputs, Tensor)
    for item in images:
        if single and isinstance(item, (tuple, list)) and item:
            item = item[0]
        if single and isinstance(item, Tensor) and item.dim() == example_inputs.dim() - 1:
            item = item.unsqueeze(0)
        args, kwargs = arguments_of(tuple(item) if isinstance(item, list) and not single else item)
        first = next(tensors_in((args, kwargs)), None)
        if first is None:
            raise CalibrationError(
                f"calibration images must be tensors as the model takes them, not {type(item).__name__}. "
                "Pass batches of preprocessed images, or a task."
            )
        yield args, kwargs, first.shape[0] if first.dim() else 1


def on_device_of(model: nn.Module, inputs: Any) -> Any:
    """The same inputs with every tensor on the device of the model's first parameter."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return inputs
    return tree_map(lambda leaf: leaf.to(parameter.device) if isinstance(leaf, Tensor) else leaf, inputs)
