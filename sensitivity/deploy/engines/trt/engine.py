"""``TensorRTEngine``: run an ONNX model with Q/DQ on an NVIDIA GPU, and read what it executed.

What of this has been run on a GPU, and what has been proved without one, is said in ``docs/concepts/tensorrt.md``.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensitivity.contracts import Engine, EngineLayer
from sensitivity.deploy.engines.capabilities import TENSORRT
from sensitivity.deploy.engines.trt.build import BuildSettings, build_serialized, started
from sensitivity.deploy.engines.trt.device import CudaDevice, Device
from sensitivity.deploy.engines.trt.file import BuiltEngine, EngineIdentity, read_engine, write_engine
from sensitivity.deploy.engines.trt.inspect import read_layers
from sensitivity.deploy.engines.trt.listen import new_listener, new_profiler, torch_dtype
from sensitivity.deploy.engines.trt.package import complaints, tensorrt
from sensitivity.errors import EngineBuildError, EngineError

WARM_UP = 5


@dataclass(frozen=True)
class _Port:
    """An input or output; a dynamic dimension is -1 and has its bounds in ``smallest`` and ``largest``."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    smallest: tuple[int, ...]
    largest: tuple[int, ...]

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether the engine takes a tensor of this shape."""
        return len(shape) == len(self.shape) and all(
            low <= size <= high for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
        )

    def __str__(self) -> str:
        bounds = "" if -1 not in self.shape else f", batch {self.smallest[0]} to {self.largest[0]}"
        return f"{self.name!r} {self.shape} {str(self.dtype).removeprefix('torch.')}{bounds}"


class TensorRTEngine(Engine):
    """A built TensorRT engine, ready to run; ``build`` or ``load`` make one.

    Attributes:
        name: ``tensorrt``.
        identity: What it was built from and for.
        unread: Debug tensors of the last ``debug_tensors`` that could not be read, with the reason.
    """

    name = "tensorrt"
    capabilities = TENSORRT

    def __init__(self, built: BuiltEngine, identity: EngineIdentity, device: Device) -> None:
        self.identity = identity
        self.version = identity.tensorrt
        self.unread: dict[str, str] = {}
        self._built = built
        self._device = device
        self._runtime = started(tensorrt().Runtime)
        self._engine = self._runtime.deserialize_cuda_engine(built.plan)
        if self._engine is None:
            raise EngineError(f"TensorRT {identity.tensorrt} cannot load this engine. {complaints()} Build it again.")
        ports = _ports(self._engine)
        self._inputs = [ports[name] for name in built.inputs]
        self._outputs = [ports[name] for name in built.outputs]
        self._context = self._new_context()
        self._times_s: dict[str, float] = {}
        self._last: tuple[Any, ...] | None = None

    @classmethod
    def build(
        cls,
        onnx: bytes | str | Path,
        *,
        batch: tuple[int, int, int] | None = None,
        timing_cache: str | Path | None = None,
        workspace_bytes: int | None = None,
        optimization_level: int | None = None,
        debug_tensors: bool = False,
        device: Device | None = None,
    ) -> TensorRTEngine:
        """Build an engine for the GPU at hand; it runs there, with this TensorRT, alone.

        Args:
            onnx: An ONNX model with its weights in it: its bytes, or a path.
            batch: Smallest, usual and largest number of images a run, for an ONNX with a dynamic batch.
            timing_cache: A file that makes the next build faster, e.g. of another scheme of the same model.
            workspace_bytes: The most scratch memory a kernel may use; None leaves it to TensorRT.
            optimization_level: 0 (builds fast) to 5; None leaves it to TensorRT.
            debug_tensors: Let ``debug_tensors`` read what is between layers; needs TensorRT 10.12 or newer.
            device: Where; by default torch's current CUDA device.

        Raises:
            MissingPackageError: If tensorrt is not installed.
            EngineError: If there is no CUDA device, or TensorRT cannot start.
            EngineBuildError: If TensorRT cannot parse or build the model.
        """
        settings = BuildSettings(
            batch=batch,
            timing_cache=None if timing_cache is None else Path(timing_cache),
            workspace_bytes=workspace_bytes,
            optimization_level=optimization_level,
            debug_tensors=debug_tensors,
        )
        identity, device, data = _here(onnx, device)
        return cls(build_serialized(data, settings), identity, device)

    @classmethod
    def load(cls, path: str | Path, onnx: bytes | str | Path, *, device: Device | None = None) -> TensorRTEngine:
        """Load an engine that ``save`` wrote.

        Args:
            path: The engine's file.
            onnx: The model that it must have been built from: bytes, or a path.
            device: Where it runs; by default torch's current CUDA device.

        Raises:
            MissingPackageError: If tensorrt is not installed.
            EngineError: If there is no CUDA device, or the file is missing, damaged, or of another model, TensorRT
                version or GPU.
        """
        identity, device, _ = _here(onnx, device)
        return cls(read_engine(path, identity), identity, device)

    def save(self, path: str | Path) -> None:
        """Write the engine to a file, with what it was built from and for.

        Raises:
            EngineError: If the file cannot be written.
        """
        write_engine(path, self._built, self.identity)

    def run(self, *inputs: Any) -> tuple[np.ndarray[Any, Any], ...]:
        """All outputs of the graph, in its order, as numpy arrays; bfloat16 comes as float32.

        Args:
            inputs: One array or tensor for each input of the graph, in its order; on the host or on the device.

        Raises:
            EngineError: If the number, a shape or a dtype of the inputs is not what the engine was built for, or
                TensorRT fails while running.
        """
        outputs, _held = self._bind(self._context, inputs)
        self._enqueue(self._context)
        self._device.synchronize()
        self._last = inputs
        return tuple(_as_array(output) for output in outputs)

    def layer_info(self) -> list[EngineLayer]:
        """Every layer as TensorRT fused it, with its executed precision.

        Times are those of ``profile``, which is called here with the last inputs where it was not yet; None before the
        first ``run``.

        Raises:
            EngineError: If the engine keeps no details.
        """
        trt = tensorrt()
        if self._last is not None and not self._times_s:
            self.profile(*self._last)
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return read_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON), self._times_s)

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        """Median time of one run on the GPU in seconds, after a warm-up: inputs and outputs stay on the device.

        Args:
            inputs: As for ``run``.
            repeats: Runs that are timed, each between two events on the stream.

        Raises:
            EngineError: As ``run``, or if ``repeats`` is not positive.
        """
        _check_repeats(repeats)
        held = self._bind(self._context, inputs)
        for _ in range(WARM_UP):
            self._enqueue(self._context)
        self._device.synchronize()
        times = [self._device.time_s(lambda: self._enqueue(self._context)) for _ in range(repeats)]
        del held  # the memory that the runs read and wrote
        return statistics.median(times)

    def profile(self, *inputs: Any, repeats: int = 20) -> Mapping[str, float]:
        """Mean seconds of each layer, by its name; ``layer_info`` has them too from now on.

        TensorRT waits between layers while it profiles: the sum is more than ``latency_s``.

        Args:
            inputs: As for ``run``.
            repeats: Runs that are averaged.

        Raises:
            EngineError: As ``run``, or if ``repeats`` is not positive.
        """
        _check_repeats(repeats)
        context = self._new_context()  # its own: a context that was profiled once stays slow
        held = self._bind(context, inputs)
        for _ in range(WARM_UP):
            self._enqueue(context)
        self._device.synchronize()
        profiler = new_profiler()
        context.profiler = profiler
        for _ in range(repeats):
            self._enqueue(context)
            self._device.synchronize()
        del held, context
        self._times_s = {name: seconds / repeats for name, seconds in profiler.seconds.items()}
        return dict(self._times_s)

    def debug_tensors(self, *inputs: Any) -> dict[str, Tensor]:
        """Every tensor between layers that fusion left, by name, as the engine computed it.

        Fusion is not changed by looking; ``unread`` names those that could not be read.

        Args:
            inputs: As for ``run``.

        Raises:
            EngineError: As ``run``, or if the engine was built without ``debug_tensors``.
        """
        context = self._new_context()
        listener = new_listener(self._device)
        if not hasattr(context, "unfused_tensors_debug_state") or not context.set_debug_listener(listener):
            raise EngineError(
                f"this engine shows no tensors. {complaints()} Build it with TensorRT 10.12 or newer and "
                "debug_tensors=True."
            )
        context.unfused_tensors_debug_state = True
        held = self._bind(context, inputs)
        self._enqueue(context)
        self._device.synchronize()
        del held, context
        self.unread = listener.unread
        if not listener.tensors and not listener.unread:
            raise EngineError("this engine showed no tensor. Build it with debug_tensors=True.")
        return dict(listener.tensors)

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise EngineError(f"TensorRT could not make room to run this engine. {complaints()} Free GPU memory.")
        return context

    def _bind(self, context: Any, inputs: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Give the context the memory of inputs and outputs; both must be kept until the run is done."""
        tensors = self._checked(inputs)
        held = [self._device.upload(tensor) for tensor in tensors]
        for port, tensor in zip(self._inputs, held, strict=True):
            if not context.set_input_shape(port.name, tuple(tensor.shape)):
                raise EngineError(f"TensorRT refuses shape {tuple(tensor.shape)} for {port}. {complaints()}")
            self._place(context, port, tensor)
        outputs = []
        for port in self._outputs:
            shape = tuple(context.get_tensor_shape(port.name))
            if -1 in shape:
                raise EngineError(
                    f"the shape {shape} of output {port.name!r} depends on the data. "
                    "Export the model up to its raw heads, and leave selecting boxes to torch."
                )
            outputs.append(self._device.empty(shape, port.dtype))
            self._place(context, port, outputs[-1])
        return outputs, held

    def _place(self, context: Any, port: _Port, tensor: Tensor) -> None:
        if not context.set_tensor_address(port.name, tensor.data_ptr()):
            raise EngineError(f"TensorRT refuses the memory of {port}. {complaints()}")

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream):
            raise EngineError(f"TensorRT failed while running. {complaints()}")

    def _checked(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        wanted = ", ".join(map(str, self._inputs))
        if len(inputs) != len(self._inputs):
            raise EngineError(f"{len(inputs)} inputs were given, and the engine takes {len(self._inputs)}: {wanted}.")
        tensors = [_as_tensor(value) for value in inputs]
        for port, tensor in zip(self._inputs, tensors, strict=True):
            if tensor.dtype != port.dtype:
                dtype = str(tensor.dtype).removeprefix("torch.")
                raise EngineError(f"an input is {dtype}, and the engine was built for {port}.")
            if not port.accepts(tuple(tensor.shape)):
                raise EngineError(
                    f"an input has shape {tuple(tensor.shape)}, and the engine was built for {port}. "
                    "Pad or split the batch, or build the engine for it."
                )
        return tensors

    def __repr__(self) -> str:
        made = self.identity
        return f"TensorRTEngine(TensorRT {made.tensorrt}, {made.device}, model {made.model[:12]})"


def load_built(path: str | Path, onnx: bytes, *, device: Device | None = None, **built_with: Any) -> TensorRTEngine:
    """``TensorRTEngine.load`` for one who knows how the engine was built: all but the device is in the file.

    Args:
        path: The engine's file.
        onnx: The model that it must have been built from.
        device: Where it runs; by default torch's current CUDA device.
        built_with: Settings of ``TensorRTEngine.build``; not looked at.

    Raises:
        MissingPackageError: If tensorrt is not installed.
        EngineError: As ``TensorRTEngine.load``.
    """
    del built_with
    return TensorRTEngine.load(path, onnx, device=device)


def _here(onnx: bytes | str | Path, device: Device | None) -> tuple[EngineIdentity, Device, bytes]:
    """The identity of an engine for this model at this place; the package is asked for before the GPU."""
    version = tensorrt().__version__
    device = CudaDevice() if device is None else device
    data = _onnx_bytes(onnx)
    return EngineIdentity.of(data, version, device.name), device, data


def _onnx_bytes(onnx: bytes | str | Path) -> bytes:
    if isinstance(onnx, bytes):
        return onnx
    try:
        return Path(onnx).read_bytes()
    except OSError as error:
        raise EngineBuildError(f"the ONNX model {onnx} cannot be read: {error}. Export it first.") from error


def _ports(engine: Any) -> dict[str, _Port]:
    """Inputs and outputs of an engine by name."""
    trt = tensorrt()
    ports = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(engine.get_tensor_shape(name))
        dtype = torch_dtype(engine.get_tensor_dtype(name), name)
        low = high = shape
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT and -1 in shape:
            low, _, high = (tuple(limits) for limits in engine.get_tensor_profile_shape(name, 0))
        ports[name] = _Port(name, dtype, shape, low, high)
    return ports


def _as_tensor(value: Any) -> Tensor:
    """The input as a tensor, without a copy where that is possible; the device makes one anyway."""
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch takes neither
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise EngineError(f"an input of dtype {array.dtype} is nothing that TensorRT takes. Give float32.") from error


def _as_array(output: Tensor) -> np.ndarray[Any, Any]:
    on_host = output.cpu()
    return (on_host.float() if on_host.dtype in (torch.bfloat16, torch.float8_e4m3fn) else on_host).numpy()


def _check_repeats(repeats: int) -> None:
    if repeats < 1:
        raise EngineError(f"repeats={repeats} times nothing. Give 1 or more.")
