"""The GPU that an engine runs on: memory and streams from torch, nothing else from CUDA.

``Device`` is all that the TensorRT backend asks of a GPU, so that its calls can be tested without one.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from sensitivity.errors import EngineError


class Device(Protocol):
    """Memory, one stream and a clock.

    Attributes:
        name: The GPU as an engine file remembers it: an engine runs on this kind of GPU alone.
        stream: Handle of the stream that everything runs on.
    """

    name: str
    stream: int

    def upload(self, tensor: Tensor) -> Tensor:
        """A contiguous copy on the device."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """New memory on the device."""

    def read(self, address: int, shape: tuple[int, ...], dtype: torch.dtype, stream: int) -> Tensor:
        """A copy, on the host, of the device's memory at an address, once the stream given has come so far."""

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""

    def time_s(self, run: Callable[[], Any]) -> float:
        """Seconds that the device takes for what ``run`` puts on the stream."""


class CudaDevice:
    """A CUDA device as torch sees it.

    Args:
        index: Its number; None for torch's current one.

    Raises:
        EngineError: If torch sees no CUDA device, or none of this number.
    """

    def __init__(self, index: int | None = None) -> None:
        refusal = no_cuda()
        if refusal is not None:
            raise EngineError(f"tensorrt needs a CUDA device: {refusal} `sensitivity doctor` lists what works here.")
        if index is not None and index >= torch.cuda.device_count():
            raise EngineError(f"there is no CUDA device {index}: torch sees {torch.cuda.device_count()}.")
        self._device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        cuda: Any = torch.cuda  # its streams and events carry no types
        self._cuda = cuda
        self._stream = cuda.Stream(self._device)
        self.stream: int = self._stream.cuda_stream
        properties = torch.cuda.get_device_properties(self._device)
        self.name: str = f"{properties.name}, compute capability {properties.major}.{properties.minor}"

    def upload(self, tensor: Tensor) -> Tensor:
        """A contiguous copy on the device; the copy is on the stream, before whatever runs next."""
        self._stream.wait_stream(self._cuda.current_stream(self._device))  # which may still be making the tensor
        with self._cuda.stream(self._stream):
            return tensor.to(self._device, copy=True).contiguous()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """New memory on the device."""
        with self._cuda.stream(self._stream):
            return torch.empty(shape, dtype=dtype, device=self._device)

    def read(self, address: int, shape: tuple[int, ...], dtype: torch.dtype, stream: int) -> Tensor:
        """A copy, on the host, of the device's memory at an address, once the stream given has come so far."""
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        with self._cuda.stream(self._cuda.ExternalStream(stream, self._device)):
            raw = torch.as_tensor(_Memory(address, size), device=self._device).cpu()
        return raw.view(dtype).reshape(shape)

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        self._stream.synchronize()

    def time_s(self, run: Callable[[], Any]) -> float:
        """Seconds between two events on the stream, one before and one after what ``run`` puts there."""
        start, end = self._cuda.Event(enable_timing=True), self._cuda.Event(enable_timing=True)
        start.record(self._stream)
        run()
        end.record(self._stream)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


class _Memory:
    """Raw device memory as bytes that torch can wrap; owns nothing."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def read_host(address: int, shape: tuple[int, ...], dtype: torch.dtype, stream: int = 0) -> Tensor:
    """A copy of the host's memory at an address; ``stream`` is there to be called like a device's ``read``."""
    del stream
    raw = ctypes.string_at(address, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)


def describe_device() -> str:
    """The GPU that TensorRT runs on here.

    Raises:
        EngineError: If torch sees no CUDA device.
    """
    return f"on {CudaDevice().name}"


def no_cuda() -> str | None:
    """Why torch cannot use a CUDA device here; None if it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA. Install a CUDA build of torch."
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU. Check the driver with nvidia-smi."
    return None
