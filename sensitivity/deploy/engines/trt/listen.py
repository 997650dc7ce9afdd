"""What TensorRT calls back while an engine runs: times of layers, and tensors between them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from sensitivity.deploy.engines.trt.device import Device, read_host
from sensitivity.deploy.engines.trt.package import tensorrt
from sensitivity.errors import EngineError

DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "FP8": torch.float8_e4m3fn,
}


def torch_dtype(dtype: Any, tensor: str) -> torch.dtype:
    """The torch type of a TensorRT type.

    Raises:
        EngineError: If torch has none, as for packed int4.
    """
    if dtype.name not in DTYPES:
        raise EngineError(f"tensor {tensor!r} is {dtype.name}, which torch cannot hold. Leave its layer unquantized.")
    return DTYPES[dtype.name]


def new_profiler() -> Any:
    """An ``IProfiler`` that adds up the seconds of each layer in ``seconds``."""
    trt = tensorrt()

    class Profiler(trt.IProfiler):  # type: ignore[misc,name-defined]  # known only once the package is imported
        """TensorRT's profiler, as a subclass of the class that its package brings."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.seconds: dict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.seconds[layer_name] += ms / 1000

    return Profiler()


def new_listener(device: Device) -> Any:
    """An ``IDebugListener`` that keeps a host copy of every tensor shown to it in ``tensors``.

    A tensor that cannot be read is in ``unread`` with its reason: an exception may not cross TensorRT.
    """
    trt = tensorrt()

    class Listener(trt.IDebugListener):  # type: ignore[misc,name-defined]  # known only once the package is imported
        """The same for debug tensors."""

        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)
            self.tensors: dict[str, Tensor] = {}
            self.unread: dict[str, str] = {}

        def process_debug_tensor(self, addr: int, location: Any, type: Any, shape: Any, name: str, stream: int) -> bool:
            try:
                dtype = torch_dtype(type, name)
                on_host = location == trt.TensorLocation.HOST  # where TensorRT keeps shapes
                read = read_host if on_host else device.read
                self.tensors[name] = read(int(addr), tuple(shape), dtype, int(stream))
            except (EngineError, RuntimeError) as error:
                self.unread[name] = str(error)
            return True

    return Listener()
