"""The host's own memory where the backend asks for a GPU's: the mock reads and writes it as TensorRT would."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sensitivity.deploy.engines.trt.device import read_host

STREAM = 4711


class HostDevice:
    """Remembers the address of everything that it hands out."""

    stream = STREAM

    def __init__(self, name: str = "mock GPU, compute capability 0.0") -> None:
        self.name = name
        self.addresses: list[int] = []
        self.waited = 0

    def upload(self, tensor: Tensor) -> Tensor:
        return self._kept(tensor.clone(memory_format=torch.contiguous_format))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self._kept(torch.full(shape, -1, dtype=dtype))

    def read(self, address: int, shape: tuple[int, ...], dtype: torch.dtype, stream: int) -> Tensor:
        assert stream == STREAM
        return read_host(address, shape, dtype)

    def synchronize(self) -> None:
        self.waited += 1

    def time_s(self, run: Callable[[], Any]) -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    def _kept(self, tensor: Tensor) -> Tensor:
        self.addresses.append(tensor.data_ptr())
        return tensor
