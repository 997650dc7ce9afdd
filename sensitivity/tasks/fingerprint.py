"""One text for a setting and one hash for many: how a task says what its scores depend on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from types import FunctionType, MethodType
from typing import Any


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """The sha256 of some texts, in hexadecimal; moving a character from one text to the next changes it."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def describe(setting: Any) -> str:
    """Text for a setting that is the same in every process and changes when the setting does.

    A function is its qualified name (a lambda or an inner function also its bytecode, constants and captured values);
    a ``functools.partial`` or bound method is its function and arguments; a value object is its ``repr``; an object
    whose ``repr`` is only an address is its class and attributes.

    Limits: editing the body of a named function, or a global that a function reads, does not change the text.
    """
    if isinstance(setting, functools.partial):
        return f"partial({describe(setting.func)}, {describe(setting.args)}, {describe(setting.keywords)})"
    if isinstance(setting, MethodType):
        return f"{describe(setting.__self__)}.{setting.__func__.__qualname__}"
    if isinstance(setting, FunctionType):
        return _describe_function(setting)
    if isinstance(setting, type):
        return f"{setting.__module__}.{setting.__qualname__}"
    if isinstance(setting, dict):
        return "{" + ", ".join(f"{describe(key)}: {describe(value)}" for key, value in setting.items()) + "}"
    if isinstance(setting, list | tuple):
        return "(" + ", ".join(describe(value) for value in setting) + ")"
    return _describe_object(setting)


def _describe_function(function: FunctionType) -> str:
    name = f"{function.__module__}.{function.__qualname__}"
    if "<" not in function.__qualname__:
        return name
    code = function.__code__
    captured = [cell.cell_contents for cell in function.__closure__ or ()]
    constants = [constant for constant in code.co_consts if not hasattr(constant, "co_code")]
    body = fingerprint([code.co_code, repr(code.co_names), describe(constants), describe(captured)])
    return f"{name}#{body[:16]}"


def _describe_object(setting: Any) -> str:
    kind = type(setting)
    text = repr(setting)
    if text == object.__repr__(setting):
        return f"{describe(kind)}({describe(vars(setting)) if hasattr(setting, '__dict__') else ''})"
    return text if kind.__module__ == "builtins" else f"{kind.__module__}:{text}"
