"""Arguments of public calls: one of the wrong kind is refused in a sentence that names it, before anything runs.

The annotations say what is right: ``checked`` reads those of a function, ``check_fields`` those of a frozen value. A
number is never a bool and never NaN. What an annotation cannot say (a range, a file's ending) is checked where it
matters. Not checked here are annotations that cannot be resolved at run time, because a type is imported for type
checkers alone, and those marked ``Annotated[..., CHECKED_WHERE_USED]``.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from sensitivity.errors import (
    CalibrationError,
    EngineError,
    ModelError,
    RecipeError,
    SensitivityError,
    StoreError,
    StudyError,
    TaskError,
)

CHECKED_WHERE_USED = "checked where it is used"
"""Marks an annotation whose values a function of its own checks, with a message that says more."""

P = ParamSpec("P")
R = TypeVar("R")

_OURS: dict[str, tuple[type[SensitivityError], str]] = {
    "Recipe": (RecipeError, "a recipe such as sv.INT8"),
    "QuantSpec": (RecipeError, "a sv.QuantSpec"),
    "NumberFormat": (RecipeError, "a sv.NumberFormat"),
    "Pruning": (RecipeError, "what is pruned, as in sv.Prune(0.5).pruning"),
    "Scheme": (RecipeError, "a scheme such as sv.Scheme.all(sv.INT8)"),
    "Rule": (RecipeError, "a rule of a scheme"),
    "Task": (TaskError, "a task: one of sv's, sv.callback_task(function), or an object with the methods of Task"),
    "Calibration": (CalibrationError, "what wrapped.calibrate(images) returned"),
    "Store": (StoreError, "a store"),
    "Study": (StudyError, "a study: what wrapped.analyze returned, or sv.Study.load(path)"),
    "StudyRecord": (StudyError, "a study: what wrapped.analyze returned, or sv.Study.load(path)"),
    "Signals": (StudyError, "what wrapped.signals or wrapped.screen returned"),
    "Latency": (StudyError, "what wrapped.latency returned"),
    "Confidence": (StudyError, "when to stop, such as sv.Confidence(tolerance=0.5)"),
    "Sweep": (StudyError, "a sv.Sweep"),
    "Gates": (EngineError, "a sv.Gates"),
    "Module": (ModelError, "a torch.nn.Module"),
    "Wrapped": (ModelError, "what sv.wrap(model, example_inputs) returned"),
}
"""Class to the error of its room, and what to give instead."""

_PLAIN: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    bytes: "bytes",
    type(None): "None",
}


def checked(error: type[SensitivityError]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: arguments that are not what a function's annotations say are refused before it runs.

    Args:
        error: Raised where the annotation names no class that has an error of its own.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # Python's own TypeError names the argument
            kinds = _kinds(function)
            for name, value in bound.arguments.items():
                kind = signature.parameters[name].kind
                if name in kinds and kind is inspect.Parameter.VAR_POSITIONAL:
                    for each in value:
                        check(name, each, kinds[name], error)
                elif name in kinds and kind is not inspect.Parameter.VAR_KEYWORD:
                    check(name, value, kinds[name], error)
            return function(*args, **kwargs)

        return call

    return decorate


def check_fields(value: Any, error: type[SensitivityError], *, skip: Collection[str] = ()) -> None:
    """Refuse a field of a frozen value that is not what its annotation says; for ``__post_init__`` and loaded files.

    Args:
        value: The value.
        error: Raised where the annotation names no class that has an error of its own.
        skip: Names of fields that are not looked at.

    Raises:
        SensitivityError: As ``error``, or the error of the class that the annotation names.
    """
    kinds = _kinds(typing.cast(Hashable, type(value)))
    for each in fields(value):
        if each.init and each.name in kinds and each.name not in skip:
            check(each.name, getattr(value, each.name), kinds[each.name], error)


def check(name: str, value: object, kind: Any, error: type[SensitivityError]) -> None:
    """Refuse a value that is not of a kind, which is an annotation.

    Raises:
        SensitivityError: As ``error``, or the error of the class that the annotation names.
    """
    if _accepts(kind, value):
        return
    refused = next((_OURS[each.__name__][0] for each in _classes(kind) if each.__name__ in _OURS), error)
    part = _wrong_part(kind, value)
    argument = f"{name}={_shown(value)}" if part is value else f"{name} holds {_shown(part)}"
    raise refused(f"{argument}: give {_expected(kind)}.")


def number(
    name: str, value: float, *, least: float = -math.inf, most: float = math.inf, error: type[SensitivityError]
) -> None:
    """Refuse a number outside a range, and one that is none.

    Args:
        name: Of the argument.
        value: What was given for it.
        least: Smallest number that is right.
        most: Largest.
        error: Raised otherwise.
    """
    check(name, value, float, error)
    if not least <= value <= most:
        limits = [f"{least:g} or more"] * (least > -math.inf) + [f"at most {most:g}"] * (most < math.inf)
        raise error(f"{name}={value!r}: give {' and '.join(limits)}.")


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as failed:  # noqa: BLE001 - the value is an outsider's, and this is for a message alone
        text = f"<{type(value).__name__} whose repr raises {type(failed).__name__}>"
    return " ".join(text.split())[:80]


@functools.cache
def _kinds(owner: Hashable) -> dict[str, Any]:
    """Annotations of a function's parameters or a class's fields; those that cannot be resolved are left out."""
    kinds = {}
    homes: list[Any] = list(reversed(owner.__mro__)) if isinstance(owner, type) else [owner]
    for home in homes:
        names = vars(sys.modules[home.__module__])
        for name, annotation in inspect.get_annotations(home).items():
            try:
                kinds[name] = eval(annotation, names) if isinstance(annotation, str) else annotation
            except NameError:
                kinds.pop(name, None)
    return kinds


def _accepts(kind: Any, value: object) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if Path in inner and isinstance(value, str) and not value:
            return False  # it would be the current folder
        return any(_accepts(each, value) for each in inner)
    if origin is Literal:
        return isinstance(value, str | int) and any(value == each and isinstance(value, type(each)) for each in inner)
    if origin is Annotated and CHECKED_WHERE_USED in kind.__metadata__:
        return True
    if origin is not None:
        return _accepts_generic(origin, inner, value)
    if kind is None:
        return value is None
    if kind is bool:
        return isinstance(value, bool) or type(value).__name__ == "bool_"  # numpy's, which is not imported here
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return not isinstance(value, bool) and isinstance(value, Real) and not math.isnan(value)
    return _is_instance(kind, value)


def _is_instance(kind: Any, value: object) -> bool:
    if not isinstance(kind, type) or kind in (object, Any) or typing.is_typeddict(kind):
        return True
    try:
        return isinstance(value, kind) and not isinstance(value, type)  # a class has the methods of its instances
    except TypeError:  # a protocol that cannot be asked
        return True


def _accepts_generic(origin: Any, inner: Sequence[Any], value: object) -> bool:
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is type:
        return isinstance(value, type)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and (
            not inner or all(_accepts(inner[0], key) and _accepts(inner[1], item) for key, item in value.items())
        )
    if origin not in _CONTAINERS:
        return _is_instance(origin, value)
    if isinstance(value, (str, bytes, type)) or not _CONTAINERS[origin](value):
        return False
    if hasattr(value, "ndim"):
        if inner and inner[0] is int:
            return bool(value.ndim == 1)
        return value.ndim > 0 and (not inner or inner[0] in (Any, int, float) or _has_items(inner[0], value))
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return True  # its items are not looked at: that might use it up
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(_accepts, inner, value))
    return not inner or all(_accepts(inner[0], item) for item in value)


def _is_sequence(value: object) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, Mapping)


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0


def _has_items(kind: Any, value: Any) -> bool:
    """Whether the first item of an array or tensor, if it has one, is of a kind: the others are like it."""
    return value.ndim > 0 and all(_accepts(kind, item) for item in value[:1])


_CONTAINERS: dict[Any, Callable[[object], bool]] = {
    tuple: lambda value: isinstance(value, (tuple, list)),
    list: lambda value: isinstance(value, list),
    set: lambda value: isinstance(value, (set, frozenset)),
    frozenset: lambda value: isinstance(value, (set, frozenset)),
    collections.abc.Sequence: _is_sequence,
    collections.abc.Iterable: _is_iterable,
    collections.abc.Collection: _is_sequence,
}


def _classes(kind: Any) -> list[type]:
    """Every class that an annotation names, from left to right."""
    if isinstance(kind, type) and get_origin(kind) is None:
        return [kind]
    return [named for each in get_args(kind) for named in _classes(each)]


def _wrong_part(kind: Any, value: object) -> object:
    """The item of a list that makes it wrong, where it is a list and one is expected; else the value."""
    if get_origin(kind) in (Union, types.UnionType):
        parts = [_wrong_part(each, value) for each in get_args(kind)]
        return next((part for part in parts if part is not value), value)
    inner = [each for each in get_args(kind) if each is not Ellipsis]
    if get_origin(kind) not in _CONTAINERS or len(inner) != 1 or not isinstance(value, (list, tuple, set, frozenset)):
        return value
    return next((item for item in value if not _accepts(inner[0], item)), value)


def _items(kind: Any) -> list[Any]:
    """What a container holds; nothing for what is none."""
    return [each for each in get_args(kind) if each not in (Ellipsis, Any)] if get_origin(kind) in _CONTAINERS else []


def _expected(kind: Any) -> str:
    """What to give, in words: ``a whole number or None``."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        several = [each for each in inner if _items(each) == [inner[0]]]  # of what may also be given by itself
        words = list(dict.fromkeys("several in a list" if each in several else _expected(each) for each in inner))
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is collections.abc.Callable:
        return "a function"
    if origin in _CONTAINERS:
        items = _items(kind)
        if origin is tuple and items and inner[-1] is not Ellipsis:
            return f"a tuple of {', '.join(map(_expected, items))}"
        return f"several in a list (each {_expected(items[0])})" if items else "several in a list"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a dict"
    if kind in _PLAIN or kind is None:
        return _PLAIN[type(None) if kind is None else kind]
    name = getattr(kind, "__name__", str(kind))
    return _OURS[name][1] if name in _OURS else f"a {name}"
