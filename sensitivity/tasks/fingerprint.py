"""One text for a setting and one hash for many: how a task says what its scores depend on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch

from sensitivity.weights import content_of


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """The sha256 of some texts, in hexadecimal; moving a character from one text to the next changes it."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def describe(setting: Any) -> str:
    """Text for a setting that is the same in every process and changes when the setting does.

    A function is its qualified name, and unless it is this library's own its bytecode, constants, defaults and captured
    values; a ``functools.partial`` or bound method is its function and arguments; an array or tensor is its content;
    a value object is its ``repr``; an object whose ``repr`` is only an address is its class and attributes.

    Limits: editing a class, a function that the function calls, or a global that it reads does not change the text;
    another version of Python does.
    """
    return _described(setting, ())


def _described(setting: Any, around: tuple[FunctionType, ...]) -> str:
    """The text; ``around`` are the functions that it is captured by."""
    inner = functools.partial(_described, around=around)
    if isinstance(setting, functools.partial):
        return f"partial({inner(setting.func)}, {inner(setting.args)}, {inner(setting.keywords)})"
    if isinstance(setting, MethodType):
        return f"{inner(setting.__self__)}.{inner(setting.__func__)}"
    if isinstance(setting, FunctionType):
        return _describe_function(setting, around)
    if isinstance(setting, type):
        return f"{setting.__module__}.{setting.__qualname__}"
    if isinstance(setting, dict):
        return "{" + ", ".join(f"{inner(key)}: {inner(value)}" for key, value in setting.items()) + "}"
    if isinstance(setting, list | tuple):
        return "(" + ", ".join(inner(value) for value in setting) + ")"
    if isinstance(setting, set | frozenset):
        return "{" + ", ".join(sorted(map(inner, setting))) + "}"  # whose own order is another one in each process
    if isinstance(setting, np.ndarray | torch.Tensor):
        return _describe_array(setting)
    return _describe_object(setting, around)


def _describe_function(function: FunctionType, around: tuple[FunctionType, ...]) -> str:
    name = f"{function.__module__}.{function.__qualname__}"
    of_this_library = f"{function.__module__}.".startswith("sensitivity.") and "<" not in function.__qualname__
    if of_this_library or function in around:
        return name
    captured = [cell.cell_contents for cell in function.__closure__ or ()]
    held = [captured, function.__defaults__, function.__kwdefaults__]
    body = fingerprint([*_code(function.__code__, function.__doc__), _described(held, (*around, function))])
    return f"{name}#{body[:16]}"


def _code(code: CodeType, docstring: str | None = None) -> Iterator[str | bytes]:
    """What a function does, with the functions inside it; its docstring and where it stands are left out."""
    yield code.co_code
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        elif constant != docstring:
            yield describe(constant)


def _describe_array(array: Any) -> str:
    content = content_of(array) if isinstance(array, torch.Tensor) else np.ascontiguousarray(array).tobytes()
    return f"{type(array).__name__} {tuple(array.shape)} {array.dtype} {hashlib.sha256(content).hexdigest()[:16]}"


def _describe_object(setting: Any, around: tuple[FunctionType, ...]) -> str:
    kind = type(setting)
    text = repr(setting)
    if text == object.__repr__(setting):
        return f"{describe(kind)}({_described(vars(setting), around) if hasattr(setting, '__dict__') else ''})"
    if "..." in text and hasattr(setting, "__dict__"):  # the text leaves something out, as that of a long array does
        text += _described(vars(setting), around)
    return text if kind.__module__ == "builtins" else f"{kind.__module__}:{text}"
