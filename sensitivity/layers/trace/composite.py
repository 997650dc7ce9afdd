"""Operators that are made of others, run as their parts, so that a dispatch mode sees the products inside."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from sensitivity.layers.trace.recurrent import FUSED_LSTM, parts_of_fused_lstm


def base_name(func: Any) -> str:
    """Name of an operator without its namespace, e.g. ``convolution``."""
    return str(func._schema.name.split("::")[-1])


def is_composite(func: Any) -> bool:
    """Whether an operator of torch is made of others; in inference mode such a one arrives whole and can be decomposed.

    Operators of ``prim::`` are left alone: asking one of them ends the process.
    """
    return func.namespace != "prim" and bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), torch._C.DispatchKey.CompositeImplicitAutograd)
    )


def run_in_parts(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], mode: AbstractContextManager[Any]) -> Any:
    """What a composite operator returns, run as its parts under a dispatch mode; ``NotImplemented`` for any other."""
    if not is_composite(func):
        return NotImplemented
    with mode:
        return func.decompose(*args, **kwargs)


def run_in_products(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], mode: AbstractContextManager[Any]) -> Any:
    """The same, and a fused LSTM as the products that it hides."""
    if base_name(func) == FUSED_LSTM:
        with mode:
            return parts_of_fused_lstm(*args)
    return run_in_parts(func, args, kwargs, mode)
