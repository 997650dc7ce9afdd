"""Engines by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from sensitivity.contracts import Engine
from sensitivity.deploy.prepare.placement import Target
from sensitivity.errors import EngineBuildError, EngineError, ExportError
from sensitivity.records import Scheme

if TYPE_CHECKING:
    from onnx import ModelProto

    from sensitivity.deploy.graph.export import Part
    from sensitivity.deploy.prepare.plan import Plan

EngineName = Literal["openvino", "onnxruntime", "tensorrt", "torch"]

_HOMES = {
    "openvino": ("sensitivity.deploy.engines.openvino_engine", "OpenVinoEngine"),
    "onnxruntime": ("sensitivity.deploy.engines.ort_engine", "OrtEngine"),
    "tensorrt": ("sensitivity.deploy.engines.trt.engine", "TensorRTEngine.build"),
}
ENGINES = (*_HOMES, "torch")

Build = Callable[..., Engine]
"""Makes an engine of an ONNX file's bytes, with settings of its own as keywords."""


def check_engine(engine: str | Build) -> None:
    """Nothing, if this is an engine.

    Raises:
        EngineError: If it is not.
    """
    if isinstance(engine, str) and engine not in ENGINES:
        raise EngineError(
            f"no engine is called {engine!r}. Choose one of {', '.join(ENGINES)}, or give a function that makes an "
            "engine of an ONNX file's bytes."
        )


def check_rest(engine: str | Build, scheme: Scheme) -> None:
    """Nothing, if an engine can compute what is not quantized in the precision that a scheme asks for.

    Raises:
        ExportError: If that needs a graph in half precision, which is not written.
        EngineBuildError: If the engine does not keep modules in fp32.
    """
    if scheme.rest == "fp32" or engine == "torch":
        return
    if engine != "openvino":
        name = engine if isinstance(engine, str) else getattr(engine, "__name__", "an engine of your own")
        raise ExportError(
            f"rest={scheme.rest!r} cannot be exported for {name}: it runs a graph in the types that are written there, "
            "and a graph in half precision is not written yet. Deploy to 'openvino' (rest='bf16') or 'torch' (the "
            "simulation), or use scheme.with_rest('fp32')."
        )
    if scheme.keep_fp32:
        raise EngineBuildError(
            f"OpenVINO cannot be held to keep_fp32={scheme.keep_fp32}: it drops the mark of an operation when it "
            "rewrites it, and its execution graph does not show all that were marked. Leave keep_fp32 out (bf16 has "
            "the range of fp32 and does not overflow), or deploy to 'torch', the simulation."
        )


def target_of(engine: str | Build) -> Target:
    """Whose placement rules a plan for this engine follows."""
    return "tensorrt" if engine == "tensorrt" else "any"


def build_engine(engine: str | Build, graph: ModelProto, plan: Plan, part: Part, **settings: Any) -> Engine:
    """Build an engine.

    Args:
        engine: A name, or a function of an ONNX file's bytes.
        graph: The graph to run.
        plan: What is quantized; the simulation runs it instead of the graph.
        part: What the graph was made of.
        settings: The engine's own.

    Raises:
        MissingPackageError: If the engine's package is not installed.
        EngineBuildError: If it cannot build the graph, or not with the plan's rest of the network.
        EngineError: If it is unknown.
        ExportError: If it needs a graph in half precision.
    """
    check_engine(engine)
    check_rest(engine, plan.scheme)
    if engine == "torch":
        from sensitivity.deploy.engines.torch_engine import TorchEngine

        return TorchEngine(plan, part)
    if engine == "openvino":
        settings["rest"] = plan.scheme.rest
    if isinstance(engine, str):
        home, name = _HOMES[engine]
        engine = attrgetter(name)(import_module(home))
    assert not isinstance(engine, str)
    return engine(graph.SerializeToString(), **settings)
