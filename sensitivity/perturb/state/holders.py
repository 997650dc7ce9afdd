"""Python objects that can hold state, each with what it held at one moment and a way to write that back."""

from __future__ import annotations

import array
import functools
import operator
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from torch import nn

from sensitivity.layers.trace.generators import same_state

ATOMS_WITHOUT_FUNCTIONS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, range, slice, frozenset, type(...)}
    | {torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format}
)
ATOMS = ATOMS_WITHOUT_FUNCTIONS | {types.FunctionType}
"""Types that hold nothing which can change. Functions are among them: see ``functions`` for what they keep."""

OF_ANY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_STANDARD = sys.stdlib_module_names - {"__main__"}
_STANDARD_DATA = {"types", "argparse", "collections"}
_FunctionCache = functools._lru_cache_wrapper
_ITERABLES: list[Any] = [[], (), "", b"", {}, set(), deque(), range(1)]
_ITERATORS = tuple(type(iter(some)) for some in _ITERABLES)


@dataclass(slots=True)
class Holder:
    """Something that holds state.

    Attributes:
        path: What it is called in messages, e.g. ``head.cache``.
        read: Gives what it holds now.
        same: Whether two answers of ``read`` are equal.
        content: What it held when it was remembered.
        write: Lets it hold that again; None where it cannot be written.
        draws: Whether it is a generator of random numbers.
        owner: The dict that ``read`` reads, and nothing else: while that binds the same, nothing has changed.
        names_only: Whether that already holds while the owner has the same names, whatever they are bound to.
    """

    path: str
    read: Callable[[], Any]
    same: Callable[[Any, Any], bool]
    content: Any
    write: Callable[[Any], object] | None
    draws: bool = False
    owner: Mapping[str, Any] | None = None
    names_only: bool = False

    def changed(self) -> bool:
        """Whether it holds something else now."""
        return not self.same(self.read(), self.content)

    def put_back(self) -> bool:
        """Let it hold what it held; False where it cannot."""
        if self.changed():
            if self.write is None:
                return False
            try:
                self.write(self.content)
            except (TypeError, ValueError, AttributeError, BufferError):
                return False
        return True


def names(path: str, owner: dict[str, Any], ignored: Set[str] = frozenset()) -> Holder:
    """What names are bound to, in the ``__dict__`` of a module or an object."""

    def read() -> dict[str, Any]:
        return {name: value for name, value in owner.items() if name not in ignored}

    def write(content: dict[str, Any]) -> None:
        for name in read().keys() - content.keys():
            del owner[name]
        owner.update(content)

    content = read()
    compared = owner if isinstance(owner, dict) else None  # torch.jit's own mapping cannot be iterated
    return Holder(path, read, _same_bindings, content, write, owner=compared, names_only=not content)


def class_names(kind: type) -> Holder:
    """What the attributes of a class are bound to, methods and the like aside."""

    def read() -> dict[str, Any]:
        return {name: value for name, value in vars(kind).items() if _is_data(name, value)}

    write = functools.partial(_write_attributes, kind, type, read)
    return Holder(kind.__name__, read, _same_bindings, read(), write, owner=vars(kind))


def _write_attributes(owner: Any, kind: Any, read: Callable[[], dict[str, Any]], content: dict[str, Any]) -> None:
    """Let an owner have these attributes and no others, past methods of its own: ``kind`` is object, or type."""
    for name in read().keys() - content.keys():
        kind.__delattr__(owner, name)
    for name, value in content.items():
        kind.__setattr__(owner, name, value)


def holders_of(value: Any, path: str) -> Iterator[Holder]:
    """What an object holds, by its type; nothing where it cannot change or is not looked at."""
    kind = type(value)
    made = next((make for base, make in _BY_TYPE if issubclass(kind, base)), None)
    if made is not None:
        yield made(value, path)
    elif issubclass(kind, _ITERATORS) or kind is count:
        yield Holder(path, functools.partial(_mark, value), operator.eq, _mark(value), None)
    if is_data_object(kind):  # which may also be a list or dict of a class of its own
        yield from _attributes(value, path)


def is_data_object(kind: type) -> bool:
    """Whether objects of a class are looked into: those of torch's and the standard library's machinery are not."""
    if issubclass(kind, nn.Module):
        return True
    package = kind.__module__.split(".")[0]
    if package in {"torch", "numpy"} or (package in _STANDARD and kind.__module__ not in _STANDARD_DATA):
        return False
    return not issubclass(kind, (type, types.ModuleType, Enum, BaseException))


def is_plain_tuple(value: Any) -> bool:
    """Whether something is a tuple of values that hold nothing, as most attributes of torch's modules are."""
    return type(value) is tuple and ATOMS_WITHOUT_FUNCTIONS.issuperset(map(type, value))


def function_caches(kind: type) -> Iterator[tuple[str, Any]]:
    """The caches of ``functools`` around the methods of a class, with their paths."""
    for name, member in vars(kind).items():
        function = getattr(member, "__func__", member)  # of a static or class method
        function = getattr(function, "fget", function)
        if isinstance(function, _FunctionCache):
            yield f"{kind.__name__}.{name}", function


def parts_of(value: Any, path: str, content: Any) -> Iterator[tuple[str, Any]]:
    """The objects that an object holds, with their paths.

    Args:
        value: The object.
        path: Its path.
        content: What its holder has read.
    """
    if isinstance(content, Mapping):
        yield from ((f"{path}.{name}", part) for name, part in content.items())
    elif issubclass(type(value), dict):
        yield from ((f"{path}[{key!r:.40}]", part) for key, part in zip(content[::2], content[1::2], strict=True))
    elif issubclass(type(value), (list, tuple, deque)):
        yield from ((f"{path}[{number}]", part) for number, part in enumerate(tuple(value)))
    elif issubclass(type(value), functools.partial):
        yield from ((path, part) for part in (value.func, value.args, value.keywords))
    elif issubclass(type(value), types.MethodType):
        yield from ((path, part) for part in (value.__self__, value.__func__))


def _is_data(name: str, value: Any) -> bool:
    described = callable(value) or hasattr(type(value), "__get__") or isinstance(value, (staticmethod, classmethod))
    return not (name.startswith(("__", "_abc_")) or described)


def _same_bindings(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(value is right[name] for name, value in left.items())


def _same_objects(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    return len(left) == len(right) and all(map(operator.is_, left, right))


def _list(value: list[Any], path: str) -> Holder:
    write = functools.partial(list.__setitem__, value, slice(None))
    return Holder(path, lambda: tuple(list.__iter__(value)), _same_objects, tuple(list.__iter__(value)), write)


def _deque(value: deque[Any], path: str) -> Holder:
    def write(content: tuple[Any, ...]) -> None:
        value.clear()
        value.extend(content)

    return Holder(path, lambda: tuple(value), _same_objects, tuple(value), write)


def _dict(value: dict[Any, Any], path: str) -> Holder:
    base: Any = OrderedDict if isinstance(value, OrderedDict) else dict

    def read() -> tuple[Any, ...]:
        return tuple(chain.from_iterable(base.items(value)))

    def write(content: tuple[Any, ...]) -> None:
        base.clear(value)
        for key, part in zip(content[::2], content[1::2], strict=True):
            base.__setitem__(value, key, part)

    return Holder(path, read, _same_objects, read(), write)


def _set(value: set[Any], path: str) -> Holder:
    def write(content: frozenset[Any]) -> None:
        value.clear()
        value.update(content)

    return Holder(path, lambda: frozenset(value), operator.eq, frozenset(value), write)


def _bytearray(value: bytearray, path: str) -> Holder:
    write = functools.partial(value.__setitem__, slice(None))
    return Holder(path, lambda: bytes(value), operator.eq, bytes(value), write)


def _typed_array(value: array.array[Any], path: str) -> Holder:
    write = functools.partial(value.__setitem__, slice(None))
    return Holder(path, lambda: value, operator.eq, value[:], write)


def _numpy_array(value: np.ndarray[Any, Any], path: str) -> Holder:
    plain = value.view(np.ndarray)

    def same(now: np.ndarray[Any, Any], content: np.ndarray[Any, Any]) -> bool:
        return now.tobytes() == content.tobytes()

    return Holder(path, lambda: plain, same, plain.copy(), functools.partial(np.copyto, plain))


def _python_generator(value: random.Random, path: str) -> Holder:
    return Holder(path, value.getstate, operator.eq, value.getstate(), value.setstate, draws=True)


def _numpy_generator(value: np.random.Generator, path: str) -> Holder:
    bits: Any = value.bit_generator
    return Holder(path, lambda: bits.state, same_state, bits.state, lambda state: setattr(bits, "state", state), True)


def _numpy_random_state(value: np.random.RandomState, path: str) -> Holder:
    read = functools.partial(value.get_state, legacy=False)
    return Holder(path, read, same_state, read(), value.set_state, draws=True)


def _torch_generator(value: torch.Generator, path: str) -> Holder:
    return Holder(path, value.get_state, torch.equal, value.get_state(), value.set_state, draws=True)


def _function_cache(value: Any, path: str) -> Holder:
    """A cache of ``functools``; emptied where a pass has added to it, which costs its next user only time."""

    def misses() -> int:
        return int(value.cache_info().misses)

    return Holder(path, misses, lambda now, then: now in (0, then), misses(), lambda _: value.cache_clear())


def _mark(value: Any) -> Any:
    """Where an iterator stands; nothing can move it back."""
    return repr(value) if isinstance(value, count) else operator.length_hint(value)


def _attributes(value: Any, path: str) -> Iterator[Holder]:
    """The attributes of an object, in its ``__dict__`` and in slots."""
    own: Any = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        hidden = OF_ANY_MODULE - {"_parameters", "_buffers", "_modules"} if isinstance(value, nn.Module) else ()
        yield names(path, own, frozenset(hidden))
    slots = [name for base in type(value).__mro__ for name in _slots(base)]

    def read() -> dict[str, Any]:
        return {name: getattr(value, name) for name in slots if hasattr(value, name)}

    if slots:
        write = functools.partial(_write_attributes, value, object, read)
        yield Holder(path, read, _same_bindings, read(), write)


def _slots(base: type) -> list[str]:
    own = [name for name, member in vars(base).items() if isinstance(member, types.MemberDescriptorType)]
    return own if is_data_object(base) else []


_BY_TYPE: list[tuple[type, Callable[[Any, str], Holder]]] = [
    (list, _list),
    (dict, _dict),
    (set, _set),
    (deque, _deque),
    (bytearray, _bytearray),
    (array.array, _typed_array),
    (np.ndarray, _numpy_array),
    (random.Random, _python_generator),
    (np.random.Generator, _numpy_generator),
    (np.random.RandomState, _numpy_random_state),
    (torch.Generator, _torch_generator),
    (_FunctionCache, _function_cache),
]
