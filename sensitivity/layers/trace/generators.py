"""The generators of random numbers of a process: Python's, numpy's and torch's, which a forward pass may draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RandomState:
    """The state of every generator at one moment. Reading and writing it waits for no device.

    Attributes:
        python: Of the module ``random``.
        numpy: Of ``numpy.random``.
        torch: Of torch on the CPU.
        cuda: Of torch by CUDA device.
    """

    python: Any
    numpy: Mapping[str, Any]
    torch: Tensor
    cuda: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def now(cls, devices: Iterable[int] = ()) -> RandomState:
        """The present one, with those of some CUDA devices."""
        cuda = {device: torch.cuda.get_rng_state(device) for device in devices}
        return cls(random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), cuda)

    def set(self) -> None:
        """Put the generators into this state."""
        random.setstate(self.python)
        np.random.set_state(dict(self.numpy))
        torch.set_rng_state(self.torch)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)

    def moved(self) -> bool:
        """Whether a generator was used since."""
        now = RandomState.now(self.cuda)
        return not (
            now.python == self.python
            and torch.equal(now.torch, self.torch)
            and same_state(now.numpy, self.numpy)
            and all(torch.equal(state, self.cuda[device]) for device, state in now.cuda.items())
        )


def same_state(left: Any, right: Any) -> bool:
    """Whether two states of a generator, which nest dicts and arrays, are equal."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same_state(value, right[name]) for name, value in left.items())
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return bool(np.array_equal(left, right))
    return bool(left == right)


@contextlib.contextmanager
def generators_forked() -> Iterator[None]:
    """The generators of this machine's CPU are put back after a ``with`` block."""
    state = RandomState.now()
    try:
        yield
    finally:
        state.set()
