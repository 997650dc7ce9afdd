"""``package.module:callable`` or ``path.py:callable``: what a command line names of the user's own code."""

from __future__ import annotations

import contextlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from sensitivity.errors import SensitivityError


def call_named(text: str, argument: str, error: type[SensitivityError], *, instead: str = "") -> Any:
    """Import and call what a text names, without arguments; modules in the current folder are found too.

    Args:
        text: ``package.module:callable`` or ``path.py:callable``; dots after the colon reach into classes.
        argument: Its name on the command line, for messages: ``MODEL``.
        error: Raised where the text names nothing that can be called, or the call fails.
        instead: What else may be given where there is no such module, for its message.
    """
    make = named(text, argument, error, instead=instead)
    with _failures_told(argument, text, error):
        return make()


def named(text: str, argument: str, error: type[SensitivityError], *, instead: str = "") -> Callable[[], Any]:
    """What a text names; see ``call_named``."""
    module_name, colon, path = text.partition(":")
    if not (module_name and colon and path):
        raise error(
            f"{argument} {text!r} is not of the form package.module:callable or path.py:callable, e.g. my_models:net "
            "or models/mine.py:resnet."
        )
    value = _module(module_name, argument, text, error, instead)
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


def _module(name: str, argument: str, text: str, error: type[SensitivityError], instead: str = "") -> Any:
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
        with _failures_told(argument, text, error, but=ModuleNotFoundError):
            module = import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{name}.".startswith(f"{missing.name}."):
            raise _failed(argument, text, error, missing) from missing  # the module is there and lacks another one
        raise error(
            f"there is no module {missing.name!r} for {argument} {text!r}. Run where Python finds it{instead}."
        ) from missing
    origin = getattr(module, "__file__", None)
    if path.suffix == ".py" and (origin is None or Path(origin).resolve() != path.resolve()):
        raise error(f"{argument} {text!r}: a module named {name!r} is there already, from {origin}. Rename the file.")
    return module


@contextlib.contextmanager
def _failures_told(
    argument: str, text: str, error: type[SensitivityError], *, but: type[Exception] = SensitivityError
) -> Iterator[None]:
    """Tell an exception of the user's own code with its place, and not as a traceback that leads through this library.

    Args:
        argument: Name of what failed on the command line.
        text: What was given there.
        error: Raised in its place.
        but: An exception to pass on as it is, besides those of this library.
    """
    try:
        yield
    except (SensitivityError, but):
        raise
    except Exception as raised:
        raise _failed(argument, text, error, raised) from raised


def _failed(argument: str, text: str, error: type[SensitivityError], raised: Exception) -> SensitivityError:
    frames = traceback.extract_tb(raised.__traceback__)
    place = [frame for frame in frames if _is_users(frame.filename)][-1:] or frames[-1:]
    where = f" ({place[0].filename}, line {place[0].lineno})" if place else ""
    return error(
        f"{argument} {text!r} failed: {type(raised).__name__}: {raised}{where}. Call it in Python to see the whole "
        "traceback."
    )


def _is_users(filename: str) -> bool:
    path = Path(filename)
    others = Path(sysconfig.get_path("stdlib")), Path(__file__).parents[1]
    return path.is_file() and "site-packages" not in path.parts and not any(map(path.is_relative_to, others))


def _is_model(value: Any) -> bool:
    """Whether this is a model itself: those can be called, but do not make one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)
