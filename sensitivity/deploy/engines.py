"""Engines by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from sensitivity.contracts import Engine
from sensitivity.deploy.placement import Target
from sensitivity.errors import EngineError

if TYPE_CHECKING:
    from onnx import ModelProto

    from sensitivity.deploy.export import Part
    from sensitivity.deploy.plan import Plan

EngineName = Literal["openvino", "onnxruntime", "tensorrt", "torch"]

_HOMES = {
    "openvino": ("sensitivity.deploy.openvino_engine", "OpenVinoEngine"),
    "onnxruntime": ("sensitivity.deploy.ort_engine", "OrtEngine"),
    "tensorrt": ("sensitivity.deploy.trt_engine", "TensorRTEngine.build"),
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
        EngineBuildError: If it cannot build the graph.
        EngineError: If it is unknown.
    """
    check_engine(engine)
    if engine == "torch":
        from sensitivity.deploy.torch_engine import TorchEngine

        return TorchEngine(plan, part)
    if isinstance(engine, str):
        home, name = _HOMES[engine]
        engine = attrgetter(name)(import_module(home))
    assert not isinstance(engine, str)
    return engine(graph.SerializeToString(), **settings)
