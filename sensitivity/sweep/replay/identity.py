"""What identifies a value in a pass, and copies of what a pass returned that its caller may change."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Callable, Hashable, Iterator
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.weights import raw_bytes

UNKNOWN = -1
_UNCHANGING = (str, bytes, int, float, complex, frozenset, range, slice, Enum, np.generic, nn.Module)
Key = tuple[Hashable, ...]
Name = Callable[[Tensor], Hashable | None]
"""What a tensor is called in a key; None if it cannot be told from another."""

_OF_ANY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = frozenset(
    {type(None), bool, int, str, bytes, complex, type(...), torch.dtype, torch.device, torch.memory_format}
    | {torch.layout, torch.Size}
)


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written; ``UNKNOWN`` for tensors that can never be trusted.

    Those of inference mode do not count, sparse and wrapped ones (``vmap``) have no memory to look at, and what hangs
    on a graph for gradients can be used once.
    """
    plain = tensor.layout is torch.strided and not is_functorch_wrapped_tensor(tensor)
    return UNKNOWN if tensor.is_inference() or not plain or tensor.grad_fn is not None else tensor._version


def identity(tensor: Tensor) -> Hashable | None:
    """The object and its version; None where versions are not counted. Means nothing once the object is gone."""
    version = version_of(tensor)
    return None if version == UNKNOWN else (id(tensor), version)


def key_of(tree: Any, name: Name) -> Key | None:
    """What a call is given, as something that can be looked up; None where it holds what cannot be compared."""
    parts: list[Any] = []
    return tuple(parts) if _collect(tree, parts, name) else None


def _collect(tree: Any, parts: list[Any], name: Name) -> bool:
    """Add the parts of a tree; whether all of it could be added."""
    kind = type(tree)
    if isinstance(tree, Tensor):
        parts.append(name(tree))
        return parts[-1] is not None
    if kind in _PLAIN or isinstance(tree, Enum):
        parts += (kind, tree)
        return True
    if kind is float:  # as text: 0.0 equals -0.0, and no NaN equals itself
        parts += (kind, repr(tree))
        return True
    if isinstance(tree, (tuple, list)):
        parts += (kind, len(tree))
        return all(_collect(item, parts, name) for item in tree)
    if isinstance(tree, dict):
        parts += (kind, len(tree))
        return all(_collect(key, parts, name) and _collect(value, parts, name) for key, value in tree.items())
    if kind is slice:
        parts.append(kind)
        return all(_collect(end, parts, name) for end in (tree.start, tree.stop, tree.step))
    return False


def rebuilt(tree: Any, leaf: Callable[[Tensor], Tensor]) -> Any:
    """A nest like this one of new lists, dicts and objects, with ``leaf`` applied to its tensors.

    Whoever takes the copy may add to it or take from it without changing the original.
    """
    if isinstance(tree, Tensor):
        return leaf(tree)
    if isinstance(tree, np.ndarray):
        return tree.copy()
    if isinstance(tree, Iterator):
        raise TypeError("an iterator can be used once")
    if isinstance(tree, tuple):
        items = [rebuilt(item, leaf) for item in tree]
        if all(new is old for new, old in zip(items, tree, strict=True)):
            return tree
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, list):
        changed = copy.copy(tree)
        changed[:] = [rebuilt(item, leaf) for item in tree]
        return changed
    if isinstance(tree, dict):
        mapping = copy.copy(tree)
        for key, value in tree.items():
            mapping[key] = rebuilt(value, leaf)
        return mapping
    if dataclasses.is_dataclass(tree) or (hasattr(tree, "__dict__") and not callable(tree)):
        if isinstance(tree, (type, nn.Module, Enum)):
            return tree
        duplicate = copy.copy(tree)
        slots = [field.name for field in dataclasses.fields(tree)] if dataclasses.is_dataclass(tree) else []
        for name in dict.fromkeys([*slots, *getattr(tree, "__dict__", ())]):
            object.__setattr__(duplicate, name, rebuilt(getattr(tree, name), leaf))
        return duplicate
    if isinstance(tree, set):
        return type(tree)(rebuilt(item, leaf) for item in tree)
    if not (type(tree) in _PLAIN or isinstance(tree, _UNCHANGING) or callable(tree)):
        raise TypeError(f"whether somebody changes a {type(tree).__name__} cannot be seen")
    return tree


def handed_out(tree: Any) -> Any:
    """The same tensors in new lists, dicts and objects."""
    return tree if isinstance(tree, Tensor) else rebuilt(tree, lambda tensor: tensor)


def cloned(tree: Any) -> Any:
    """A copy that shares no memory; a tensor that is in it twice stays one tensor."""
    clones: dict[int, Tensor] = {}

    def clone(tensor: Tensor) -> Tensor:
        return clones.setdefault(id(tensor), tensor.clone())

    return rebuilt(tree, clone)


def share_memory(outputs: list[Tensor], inputs: list[Tensor]) -> bool:
    """Whether two different outputs, or an output and something given, lie in the same memory."""
    if any(version_of(tensor) == UNKNOWN for tensor in (*outputs, *inputs)):
        return True  # for all that is known
    places = [tensor.untyped_storage().data_ptr() for tensor in {id(output): output for output in outputs}.values()]
    taken = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    return len(set(places)) < len(places) or not taken.isdisjoint(places)


def state_of(module: nn.Module) -> list[Any]:
    """What a module could remember a pass by, or be told by another.

    Which objects its attributes, parameters and buffers are, how long its lists are, and versions of buffers.
    """
    own = {name: value for name, value in vars(module).items() if name not in _OF_ANY_MODULE}
    attributes = [(name, id(value)) for name, value in own.items()]
    plain = [(name, len(value)) for name, value in own.items() if isinstance(value, (list, dict, set))]
    buffers = [(id(b), version_of(b)) for b in module._buffers.values() if b is not None]
    return [*attributes, *plain, *map(id, module._parameters.values()), *buffers]


def contents(tensors: list[Tensor]) -> list[int]:
    """A checksum of each tensor: what numpy or ``.data`` write is counted by no version."""
    return [zlib.crc32(raw_bytes(tensor).numpy().data) for tensor in tensors]


def witness(tensor: Tensor) -> Tensor:
    """An empty tensor that counts the writes to this one and outlives it: its memory is not kept."""
    counter = tensor.detach()
    counter.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return counter


def written(tensors: list[tuple[Tensor, int]]) -> bool:
    """Whether one of the tensors (or witnesses) has another version than noted."""
    return any(tensor._version != version for tensor, version in tensors)


def storages_of(tree: Any) -> dict[int, int]:
    """Address and bytes of the memory that the tensors of a nest lie in."""
    sizes = {}
    for tensor in tensors_in(tree):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sizes
