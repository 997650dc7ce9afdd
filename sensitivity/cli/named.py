"""``package.module:callable`` or ``path.py:callable``: what a command line names of the user's own code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from sensitivity.errors import SensitivityError


def call_named(text: str, argument: str, error: type[SensitivityError]) -> Any:
    """Import and call what a text names, without arguments; modules in the current folder are found too.

    An exception of the user's own code is passed on as it is.

    Args:
        text: ``package.module:callable`` or ``path.py:callable``; dots after the colon reach into classes.
        argument: Its name on the command line, for messages: ``MODEL``.
        error: Raised where the text names nothing that can be called.
    """
    return named(text, argument, error)()


def named(text: str, argument: str, error: type[SensitivityError]) -> Callable[[], Any]:
    """What a text names; see ``call_named``."""
    module_name, colon, path = text.partition(":")
    if not (module_name and colon and path):
        raise error(
            f"{argument} {text!r} is not of the form package.module:callable or path.py:callable, e.g. my_models:net "
            "or models/mine.py:resnet."
        )
    value = _module(module_name, argument, text, error)
    for step in path.split("."):
        if not hasattr(value, step):
            near = get_close_matches(step, dir(value), n=3)
            hint = f" Nearest: {', '.join(map(repr, near))}." if near else ""
            raise error(f"{argument} {text!r}: {getattr(value, '__name__', value)} has no {step!r}.{hint}")
        value = getattr(value, step)
    if not callable(value) or _is_model(value):
        raise error(
            f"{argument} {text!r} is {type(value).__name__}, not a function that returns one. "
            f"Write one: def make(): return {path}."
        )
    function: Callable[[], Any] = value
    return function


def import_module_named(text: str, argument: str, error: type[SensitivityError]) -> None:
    """Import a module for what it registers: engines, observers, formats.

    Args:
        text: ``package.module`` or ``path.py``.
        argument: Its name on the command line, for messages: ``MODEL``.
        error: Raised where there is no such module.
    """
    _module(text, argument, text, error)


def _module(name: str, argument: str, text: str, error: type[SensitivityError]) -> Any:
    """The module of a name, or of a file that ends in ``.py``."""
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise error(f"there is no file {name!r} for {argument} {text!r}.")
        folder, name = str(path.parent.resolve()), path.stem
        if folder not in sys.path:
            sys.path.insert(0, folder)
    if "" not in sys.path:
        sys.path.insert(0, "")  # as python -m does
    try:
        module = import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{name}.".startswith(f"{missing.name}."):
            raise  # the module is there and lacks something of its own
        raise error(
            f"there is no module {missing.name!r} for {argument} {text!r}. Run where Python finds it."
        ) from missing
    origin = getattr(module, "__file__", None)
    if path.suffix == ".py" and (origin is None or Path(origin).resolve() != path.resolve()):
        raise error(f"{argument} {text!r}: a module named {name!r} is there already, from {origin}. Rename the file.")
    return module


def _is_model(value: Any) -> bool:
    """Whether this is a model itself: those can be called, but do not make one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)
