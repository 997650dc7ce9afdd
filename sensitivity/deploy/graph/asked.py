"""Where a pass asks tensors for their values: what it then does depends on the example, and a trace would keep it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
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


def values_asked(run: Callable[[], object]) -> list[str]:
    """What a pass converts tensors to, and where, each once and in order; sizes are no tensors and do not count.

    Args:
        run: Runs the pass.
    """
    places: dict[str, None] = {}

    def ask(kind: str) -> None:
        places[f"a tensor was converted to {kind} ({_place()})"] = None

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


def _place() -> str:
    """The line of the innermost frame that is neither torch's nor of this file."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(_TORCH)
    ):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
