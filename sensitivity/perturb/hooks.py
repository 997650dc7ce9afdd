"""The only file that registers hooks, and the context manager that removes them whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Arguments | None]
After = Callable[[nn.Module, tuple[Any, ...], Any], Any]


@contextlib.contextmanager
def hooked(
    *, before: Iterable[tuple[nn.Module, Before]] = (), after: Iterable[tuple[nn.Module, After]] = ()
) -> Iterator[None]:
    """Hooks on modules for the time of a ``with`` block; they are gone after it, also after an interrupt.

    Args:
        before: Modules with what runs on their arguments; it may return new arguments.
        after: Modules with what runs on their output; it may return a new output.
    """
    handles: list[RemovableHandle] = []
    try:
        for module, function in before:
            handles.append(module.register_forward_pre_hook(function, with_kwargs=True))
        for module, change in after:
            handles.append(module.register_forward_hook(change))
        yield
    finally:
        for handle in handles:
            handle.remove()
