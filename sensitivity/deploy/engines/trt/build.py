"""ONNX with Q/DQ to a TensorRT plan: strongly typed, TF32 off, every layer described in the engine.

In a strongly typed network the graph alone says what runs in which type: Q/DQ pairs become int8, the rest stays what
the ONNX says. TensorRT 11 knows no other networks, so that this is one code path for 10 and 11.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.deploy.engines.trt.file import BuiltEngine
from sensitivity.deploy.engines.trt.package import complaints, tensorrt, trt_log
from sensitivity.errors import EngineBuildError, EngineError


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How an engine is built.

    Attributes:
        batch: Smallest, usual and largest number of images a run, for an ONNX whose first dimension is dynamic; None
            for one of fixed shape.
        timing_cache: A file in which TensorRT keeps how fast each kernel was, so that the next build, of another scheme
            of the same model say, measures only what is new. It is made when missing. One for each kind of GPU.
        workspace_bytes: The most scratch memory a kernel may use; None leaves it to TensorRT.
        optimization_level: TensorRT's builder optimization level, 0 (builds fast) to 5; None leaves it to TensorRT.
        debug_tensors: Make every tensor that survives fusion readable, for ``debug_tensors`` of the engine; needs
            TensorRT 10.12 or newer.
    """

    batch: tuple[int, int, int] | None = None
    timing_cache: Path | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    debug_tensors: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise EngineBuildError(f"batch={self.batch} must be (smallest, usual, largest) with 1 <= each <= the next.")


def build_serialized(onnx: bytes, settings: BuildSettings) -> BuiltEngine:
    """Build an engine and serialize it.

    Args:
        onnx: A whole ONNX model, weights included.
        settings: How.

    Raises:
        MissingPackageError: If tensorrt is not installed.
        EngineError: If TensorRT cannot start here.
        EngineBuildError: If it cannot parse or build the model; the message has its own words.
    """
    trt, log = tensorrt(), trt_log()
    log.messages.clear()
    builder = started(trt.Builder)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, onnx)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: float layers would compute with 10 bits of mantissa
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the engine does not tell its precisions
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.debug_tensors:
        _mark_debug(trt, network)
    _set_batch(builder, network, config, settings.batch)
    if settings.timing_cache is not None:
        _read_cache(config, settings.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(f"TensorRT {trt.__version__} could not build an engine. {complaints()}")
    if settings.timing_cache is not None:
        _write_cache(config, settings.timing_cache)
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    return BuiltEngine(bytes(plan), tuple(name for name, _ in _inputs(network)), tuple(outputs))


def started(factory: Any) -> Any:
    """A builder or a runtime of TensorRT, which is where it first meets the driver.

    Raises:
        EngineError: If TensorRT cannot start here.
    """
    try:
        return factory(trt_log())
    except (TypeError, RuntimeError) as error:  # TypeError is how its bindings say that they were given nothing
        raise EngineError(
            f"TensorRT {tensorrt().__version__} cannot start here. {complaints()} "
            "Its version must fit the CUDA driver: see nvidia-smi."
        ) from error


def _parse(trt: Any, network: Any, onnx: bytes) -> None:
    parser = trt.OnnxParser(network, trt_log())
    if parser.parse(onnx):
        return
    errors = [_described(parser.get_error(index)) for index in range(parser.num_errors)]
    raise EngineBuildError(
        f"TensorRT {trt.__version__} cannot parse this ONNX model ({len(onnx)} bytes): "
        f"{'; '.join(errors) or complaints()} Leave the layers that it names out of the scheme, or export another part."
    )


def _described(error: Any) -> str:
    node, operation = error.node_name(), error.node_operator()
    node_text = f"node {node!r} ({operation}): " if node else ""
    return f"{node_text}{error.desc().strip()}"


def _mark_debug(trt: Any, network: Any) -> None:
    if not hasattr(network, "mark_unfused_tensors_as_debug_tensors"):
        raise EngineBuildError(
            f"debug_tensors=True needs TensorRT 10.12 or newer, and this is {trt.__version__}: "
            "older ones can only show tensors by changing what is fused."
        )
    if not network.mark_unfused_tensors_as_debug_tensors():
        raise EngineBuildError(f"TensorRT {trt.__version__} could not mark debug tensors. {complaints()}")


def _set_batch(builder: Any, network: Any, config: Any, batch: tuple[int, int, int] | None) -> None:
    """An optimization profile for inputs with a dynamic first dimension; none for fixed ones."""
    dynamic = []
    for name, shape in _inputs(network):
        if -1 in shape[1:]:
            raise EngineBuildError(
                f"input {name!r} has shape {shape}: only its first dimension, the batch, may be dynamic. "
                "Export the model with fixed heights and widths."
            )
        if -1 in shape:
            dynamic.append((name, shape))
        elif batch is not None and shape and not batch[0] <= shape[0] <= batch[2]:
            raise EngineBuildError(
                f"batch={batch} was asked for, but input {name!r} has the fixed shape {shape}. "
                "Export the model with a dynamic batch, or leave batch out."
            )
    if not dynamic:
        return
    if batch is None:
        raise EngineBuildError(
            f"input {dynamic[0][0]!r} has the dynamic shape {dynamic[0][1]}: say which batch sizes the engine is for, "
            "batch=(smallest, usual, largest)."
        )
    profile = builder.create_optimization_profile()
    for name, shape in dynamic:
        profile.set_shape(name, *((size, *shape[1:]) for size in batch))
    config.add_optimization_profile(profile)


def _inputs(network: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        yield tensor.name, tuple(tensor.shape)


def _read_cache(config: Any, path: Path) -> None:
    cache = config.create_timing_cache(_cached(path))
    if cache is None or not config.set_timing_cache(cache, False):
        raise EngineBuildError(
            f"the timing cache {path} does not fit this TensorRT and GPU. {complaints()} "
            "Name another file, or delete it: it only saves time."
        )


def _write_cache(config: Any, path: Path) -> None:
    """Keep what was measured, together with what another process has written meanwhile; a reader never sees a half."""
    cache = config.get_timing_cache()
    other = config.create_timing_cache(_cached(path))
    if other is not None:
        cache.combine(other, False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            file.write(bytes(cache.serialize()))
        os.replace(file.name, path)
    except OSError as error:
        raise EngineBuildError(f"the timing cache {path} cannot be written: {error}. Name another file.") from error


def _cached(path: Path) -> bytes:
    """What the file holds; nothing where there is none yet."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise EngineBuildError(f"the timing cache {path} cannot be read: {error}. Name another file.") from error
