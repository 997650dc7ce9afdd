"""Where a pass asks tensors for their values: what it then does depends on the example, and a trace would keep it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_CONVERSIONS: dict[Any, str] = {
    Tensor.numpy: "a NumPy array",
    Tensor.__array__: "a NumPy array",
    Tensor.tolist: "a Python list",
}
"""Conversions that no dispatcher sees: they read the memory of a tensor themselves."""

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"  # not torchvision, whose name begins alike


Line = tuple[str, int]
"""A file's full name and the number of a line in it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A tensor that a pass converted to a value.

    Attributes:
        kind: What it became.
        line: The line of the innermost frame that is not torch's.
        within_torch: Whether it was asked in a function of torch that this line called.
    """

    kind: str
    line: Line
    within_torch: bool

    def among(self, lines: Collection[Line]) -> bool:
        """Whether one of these lines, which a tracer warned of, is where it was asked."""
        return self.line in lines or (self.within_torch and any(file.startswith(_TORCH) for file, _ in lines))

    def __str__(self) -> str:
        file, number = self.line
        return f"a tensor was converted to {self.kind} ({Path(file).name}, line {number})"


def values_asked(run: Callable[[], object]) -> list[Asked]:
    """What a pass converts tensors to, and where, each once and in order; sizes are no tensors and do not count.

    Args:
        run: Runs the pass; not a traced one, which loses track of tensors while it is looked at.
    """
    places: dict[Asked, None] = {}

    def ask(kind: str) -> None:
        places[_asked(kind)] = None

    with _Conversions(ask), _Numbers(ask):
        run()
    return list(places)


class _Conversions(TorchFunctionMode):
    """Notices conversions of whole tensors."""

    def __init__(self, ask: Callable[[str], None]) -> None:
        super().__init__()
        self._ask = ask

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _CONVERSIONS:
            self._ask(_CONVERSIONS[func])
        return func(*args, **(kwargs or {}))


class _Numbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices tensors of one element that become a number or a truth value."""

    def __init__(self, ask: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ask = ask

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, (bool, int, float, complex)):
            self._ask(f"a Python {type(result).__name__}")
        return result


def _asked(kind: str) -> Asked:
    frame, within_torch = sys._getframe(1), False
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith(_TORCH):
            break
        within_torch = within_torch or file != __file__
        frame = frame.f_back
    return Asked(kind, (frame.f_code.co_filename, frame.f_lineno), within_torch)
