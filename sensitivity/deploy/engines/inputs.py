"""What every engine asks of its inputs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sensitivity.errors import EngineError

WARM_UP_RUNS = 3

Array = npt.NDArray[Any]


def checked_inputs(
    engine: str, inputs: Sequence[Any], shapes: Sequence[Sequence[int | None]], dtypes: Sequence[npt.DTypeLike]
) -> list[Array]:
    """The inputs as contiguous arrays, if they are what an engine was built for.

    Args:
        engine: Its name, for messages.
        inputs: Arrays or tensors on the CPU.
        shapes: Shape of each input of the graph; None for a size that may change.
        dtypes: Type of each.

    Raises:
        EngineError: If the number, a shape or a dtype differs.
    """
    if len(inputs) != len(shapes):
        raise EngineError(f"this {engine} engine takes {len(shapes)} inputs, it was given {len(inputs)}.")
    arrays = []
    for number, (value, shape, dtype) in enumerate(zip(inputs, shapes, dtypes, strict=True)):
        array = np.asarray(value)
        fits = len(array.shape) == len(shape) and all(
            want is None or have == want for have, want in zip(array.shape, shape, strict=True)
        )
        if not fits:
            raise EngineError(
                f"input {number} of this {engine} engine has shape {tuple(shape)}, it was given {array.shape}. An "
                "engine is built for one size: resize the input, or deploy with example inputs of this size."
            )
        if array.dtype != np.dtype(dtype):
            raise EngineError(
                f"input {number} of this {engine} engine is {np.dtype(dtype).name}, it was given {array.dtype.name}. "
                f"Convert it with .astype({np.dtype(dtype).name!r})."
            )
        arrays.append(np.ascontiguousarray(array))
    return arrays


def check_repeats(repeats: int) -> None:
    """Refuse to repeat nothing.

    Raises:
        EngineError: If there is nothing to repeat.
    """
    if repeats < 1:
        raise EngineError(f"repeats={repeats}: it must be 1 or more.")


def median_time_s(run: Callable[[], object], repeats: int) -> float:
    """Median wall time of one call in seconds, after a warm-up.

    Raises:
        EngineError: If there is nothing to repeat.
    """
    check_repeats(repeats)
    for _ in range(WARM_UP_RUNS):
        run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
