"""Find which entry of which table each method of the bindings calls: run in a process of its own, prints the slots.

Every object comes from ``mock.cpp`` with no slot known yet: each call logs the number of the entry it reached and gives
back a fresh object, so that one call of each method tells its entry, whatever the version numbers them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt_bindings as trt

LOG = Path(os.environ["MOCK_LOG"])
SHOWS_TENSORS = tuple(map(int, trt.__version__.split(".")[:2])) >= (10, 12)
ZERO = ctypes.CDLL(os.environ["MOCK_LIBRARY"]).mock_give_zero


def entries(call: Callable[[], Any], *, zero: bool = True) -> tuple[list[int], Any]:
    """The entries that a call reached, and what it returned."""
    ZERO(int(zero))
    before = len(LOG.read_text().splitlines())
    try:
        returned = call()
    except (TypeError, RuntimeError, ValueError, UnicodeDecodeError, IndexError):
        returned = None  # the bindings may dislike the nonsense that the mock answers; the call has been logged
    after = LOG.read_text().splitlines()[before:]
    return [int(line.split()[-1]) for line in after if line.startswith("? ")], returned


def slot(kind: str, method: str, call: Callable[[], Any]) -> Any:
    """Print the entry of a method, and give back a fresh object where it makes one."""
    slots, _ = entries(call)
    if not slots:
        raise SystemExit(f"{kind}.{method} reached no entry of the mock")
    print(kind, method, slots[0])
    return entries(call, zero=False)[1]


def assign(target: Any, attribute: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(target, attribute, value)


class Profiler(trt.IProfiler):
    def __init__(self) -> None:
        trt.IProfiler.__init__(self)

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise AssertionError("the probe runs nothing")


class Listener(trt.IDebugListener):
    def __init__(self) -> None:
        trt.IDebugListener.__init__(self)


def probe_builder(logger: trt.Logger) -> Any:
    builder = trt.Builder(logger)
    network = slot("builder", "create_network", lambda: builder.create_network(0))
    config = slot("builder", "create_builder_config", builder.create_builder_config)
    profile = slot("builder", "create_optimization_profile", builder.create_optimization_profile)
    plan = slot("builder", "build_serialized_network", lambda: builder.build_serialized_network(network, config))
    slot("profile", "set_shape", lambda: profile.set_shape("x", (1,), (1,), (1,)))
    probe_network(network)
    probe_config(config, profile)
    probe_memory(plan)
    return network


def probe_memory(plan: Any) -> None:
    slot("memory", "nbytes", lambda: plan.nbytes)
    slot("memory", "dtype", lambda: plan.dtype)
    others = {*entries(lambda: plan.nbytes)[0], *entries(lambda: plan.dtype)[0]}
    print("memory data", next(entry for entry in entries(lambda: bytes(plan))[0] if entry not in others))


def probe_network(network: Any) -> None:
    slot("network", "num_inputs", lambda: network.num_inputs)
    slot("network", "num_outputs", lambda: network.num_outputs)
    tensor = slot("network", "get_input", lambda: network.get_input(0))
    slot("network", "get_output", lambda: network.get_output(0))
    if SHOWS_TENSORS:
        mark = network.mark_unfused_tensors_as_debug_tensors
        slot("network", "mark_unfused_tensors_as_debug_tensors", mark)
    for name in ("name", "shape", "dtype"):
        slot("tensor", name, lambda name=name: getattr(tensor, name))


def probe_config(config: Any, profile: Any) -> None:
    slot("config", "clear_flag", lambda: config.clear_flag(trt.BuilderFlag.TF32))
    slot("config", "set_flag", lambda: config.set_flag(trt.BuilderFlag.TF32))
    slot("config", "profiling_verbosity", assign(config, "profiling_verbosity", trt.ProfilingVerbosity.DETAILED))
    slot("config", "builder_optimization_level", assign(config, "builder_optimization_level", 1))
    slot("config", "set_memory_pool_limit", lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1))
    slot("config", "add_optimization_profile", lambda: config.add_optimization_profile(profile))
    cache = slot("config", "create_timing_cache", lambda: config.create_timing_cache(b""))
    slot("config", "set_timing_cache", lambda: config.set_timing_cache(cache, False))
    slot("config", "get_timing_cache", config.get_timing_cache)
    slot("timing_cache", "serialize", cache.serialize)
    slot("timing_cache", "combine", lambda: cache.combine(cache, False))


def probe_parser(network: Any, logger: trt.Logger) -> None:
    parser = trt.OnnxParser(network, logger)
    slot("parser", "parse", lambda: parser.parse(b"x"))
    slot("parser", "num_errors", lambda: parser.num_errors)
    error = slot("parser", "get_error", lambda: parser.get_error(0))
    for name in ("code", "desc", "node_name", "node_operator"):
        slot("parser_error", name, getattr(error, name))


def probe_runtime(logger: trt.Logger) -> None:
    runtime = trt.Runtime(logger)
    engine = slot("runtime", "deserialize_cuda_engine", lambda: runtime.deserialize_cuda_engine(b"x"))
    slot("engine", "num_io_tensors", lambda: engine.num_io_tensors)
    slot("engine", "get_tensor_name", lambda: engine.get_tensor_name(0))
    slot("engine", "get_tensor_mode", lambda: engine.get_tensor_mode("x"))
    slot("engine", "get_tensor_shape", lambda: engine.get_tensor_shape("x"))
    slot("engine", "get_tensor_dtype", lambda: engine.get_tensor_dtype("x"))
    slot("engine", "get_tensor_profile_shape", lambda: engine.get_tensor_profile_shape("x", 0))
    context = slot("engine", "create_execution_context", engine.create_execution_context)
    inspector = slot("engine", "create_engine_inspector", engine.create_engine_inspector)
    slot("inspector", "execution_context", assign(inspector, "execution_context", context))
    json = trt.LayerInformationFormat.JSON
    slot("inspector", "get_engine_information", lambda: inspector.get_engine_information(json))
    probe_context(context)


def probe_context(context: Any) -> None:
    profiler, listener = Profiler(), Listener()
    slot("context", "set_input_shape", lambda: context.set_input_shape("x", (1,)))
    slot("context", "get_tensor_shape", lambda: context.get_tensor_shape("x"))
    slot("context", "set_tensor_address", lambda: context.set_tensor_address("x", 0))
    slot("context", "execute_async_v3", lambda: context.execute_async_v3(0))
    slot("context", "profiler", assign(context, "profiler", profiler))
    slot("context", "set_debug_listener", lambda: context.set_debug_listener(listener))
    if SHOWS_TENSORS:
        slot("context", "unfused_tensors_debug_state", assign(context, "unfused_tensors_debug_state", True))


def main() -> None:
    logger = trt.Logger(trt.Logger.ERROR)
    network = probe_builder(logger)
    probe_parser(network, logger)
    probe_runtime(logger)
    sys.stdout.flush()
    os._exit(0)  # the mock keeps no account of what the bindings would free on the way out


if __name__ == "__main__":
    main()
