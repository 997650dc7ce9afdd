"""What a model may be fed and may return: tensors, tuples, dicts, dataclasses, and nests of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

R = TypeVar("R")


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


def copied(inputs: Any) -> Any:
    """The same inputs with a copy of every tensor: a model may write to what it is given."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def unchanged_inputs(run: Callable[[], R], inputs: Any) -> Callable[[], R]:
    """The same pass, before and after which its inputs are as they are now: some models write to what they are given.

    A pass with gradients needs what it wrote until it is differentiated; its inputs are put back before the next pass.
    """
    held = [(tensor, tensor.clone()) for tensor in tensors_in(inputs)]
    versions = [_version_of(tensor) for tensor, _ in held]

    def put_back() -> None:
        for place, (tensor, original) in enumerate(held):
            if tensor.is_inference() or tensor._version != versions[place]:
                with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                    tensor.copy_(original)
                versions[place] = _version_of(tensor)

    def run_unchanged() -> R:
        put_back()
        try:
            return run()
        finally:
            if not torch.is_grad_enabled():
                put_back()

    return run_unchanged


def _version_of(tensor: Tensor) -> int:
    """How often a tensor was written; those of inference mode do not count."""
    return -1 if tensor.is_inference() else tensor._version
