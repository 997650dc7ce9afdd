"""Engines by name: what builds each, what it can run, and which extra brings it.

This is the only place that lists the engines of this library. An engine from outside joins them with
``register_engine``; plans, the command line, the doctor and ``verify`` then treat it like the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.contracts import Engine, EngineCapabilities, RunsGraph
from sensitivity.deploy.engines.capabilities import ONNXRUNTIME, ONNXRUNTIME_INT8, OPENVINO, SIMULATION, TENSORRT
from sensitivity.deploy.engines.defaults import with_defaults
from sensitivity.deploy.packages import need
from sensitivity.deploy.prepare.placement import (
    ANY_ENGINE,
    Target,
    openvino_refuses,
    ort_int8_refuses,
    tensorrt_refuses,
)
from sensitivity.deploy.prepare.rest_in_words import in_file, in_python
from sensitivity.errors import EngineBuildError, EngineError, ExportError
from sensitivity.records import Layer, Scheme
from sensitivity.records.arguments import checked

if TYPE_CHECKING:
    from onnx import ModelProto

    from sensitivity.deploy.graph.export.parts import Part
    from sensitivity.deploy.prepare.plan import Plan

Build = Callable[..., RunsGraph]
"""Makes an engine of an ONNX file's bytes, with settings of its own as keywords."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """One entry of the registry.

    Attributes:
        name: What ``deploy`` calls it by.
        title: What messages call it.
        build: Makes an engine of an ONNX file's bytes; the simulation is made of a plan and a part instead.
        capabilities: What it can run.
        package: Package that runs the graph; None where there is none to look for.
        extra: Extra of this library that brings it; None where none does.
        refuses_layer: Why it should not run a layer in int8, or None if it should; None asks nothing.
        load: Makes an engine of a file that its ``save`` wrote and the ONNX file's bytes, with the settings that it was
            built with as keywords; None where it has no files.
        describe_device: What it runs on here, for people; raises an error of this library where it cannot run.
        is_simulation: Whether it is the simulation, which ignores the graph.
    """

    name: str
    title: str
    build: Callable[..., RunsGraph]
    capabilities: EngineCapabilities = field(default_factory=EngineCapabilities)
    package: str | None = None
    extra: str | None = None
    refuses_layer: Callable[[Layer], str | None] | None = None
    load: Callable[..., RunsGraph] | None = None
    describe_device: Callable[[], str] | None = None
    is_simulation: bool = False

    @property
    def target(self) -> Target:
        """What a plan for it respects."""
        return Target(self.title, self.capabilities, self.refuses_layer)

    def check_runs_here(self) -> str:
        """What it runs on here, for people; empty where it does not tell.

        Raises:
            MissingPackageError: If its package is not installed.
            EngineError: If it finds no device.
        """
        if self.package is not None and self.extra is not None:
            need(self.package, self.extra)
        return "" if self.describe_device is None else self.describe_device()


@dataclass(frozen=True, slots=True)
class _Lazy:
    """A callable of another module, which is imported when it is first called."""

    module: str
    path: str

    def resolved(self) -> Callable[..., Any]:
        """What it stands for."""
        target: Callable[..., Any] = attrgetter(self.path)(import_module(f"sensitivity.deploy.engines.{self.module}"))
        return target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.resolved()(*args, **kwargs)


_OURS = (
    EngineKind(
        name="openvino",
        title="OpenVINO",
        build=_Lazy("openvino_engine", "OpenVinoEngine"),
        capabilities=OPENVINO,
        package="openvino",
        extra="openvino",
        refuses_layer=openvino_refuses,
        describe_device=_Lazy("openvino_engine", "describe_device"),
    ),
    EngineKind(
        name="onnxruntime",
        title="ONNX Runtime",
        build=_Lazy("ort_engine", "OrtEngine"),
        capabilities=ONNXRUNTIME,
        package="onnxruntime",
        extra="onnx",
        describe_device=_Lazy("ort_engine", "describe_device"),
    ),
    EngineKind(
        name="onnxruntime-int8",
        title="ONNX Runtime's int8 kernels",
        build=_Lazy("ort_int8_engine", "OrtInt8Engine"),
        capabilities=ONNXRUNTIME_INT8,
        package="onnxruntime",
        extra="onnx",
        refuses_layer=ort_int8_refuses,
        describe_device=_Lazy("ort_int8_engine", "describe_device"),
    ),
    EngineKind(
        name="tensorrt",
        title="TensorRT",
        build=_Lazy("trt.engine", "TensorRTEngine.build"),
        capabilities=TENSORRT,
        package="tensorrt",
        extra="tensorrt",
        refuses_layer=tensorrt_refuses,
        load=_Lazy("trt.engine", "load_built"),
        describe_device=_Lazy("trt.device", "describe_device"),
    ),
    EngineKind(
        name="torch",
        title="the simulation",
        build=_Lazy("torch_engine", "TorchEngine"),
        capabilities=SIMULATION,
        package="torch",
        is_simulation=True,
    ),
)
_KINDS: dict[str, EngineKind] = {kind.name: kind for kind in _OURS}


@checked(EngineError)
def register_engine(
    name: str,
    build: Build,
    *,
    capabilities: EngineCapabilities | None = None,
    package: str | None = None,
    refuses_layer: Callable[[Layer], str | None] | None = None,
    load: Callable[..., RunsGraph] | None = None,
) -> None:
    """Make an engine of your own known by a name, for as long as this process runs.

    ``wrapped.deploy(scheme, name)`` then builds it, the doctor tries it, and plans respect what it can run.

    Args:
        name: Lower case, and not taken.
        build: Makes the engine of an ONNX file's bytes: a class or function, with settings as keywords. What it returns
            passes ``sensitivity.testing.engines.EngineSuite``.
        capabilities: What it can run; None takes those of the class, if it inherits from ``contracts.Engine``, or else
            what every engine that reads Q/DQ can run.
        package: Package that it needs, whose version the doctor tells.
        refuses_layer: Called with a layer: why the engine should not run it in int8, or None if it should.
        load: Makes an engine of a path that its ``save`` wrote and the ONNX file's bytes, with the settings that it was
            built with as keywords.

    Raises:
        EngineError: If the name is taken, or is not lower case.
    """
    if name != name.strip().lower() or not name or name == ANY_ENGINE.name:
        raise EngineError(f"name=: an engine cannot be called {name!r}: give a name in lower case, e.g. 'mine'.")
    if name in _KINDS:
        raise EngineError(f"name={name!r} is registered already. Choose another name.")
    _KINDS[name] = EngineKind(
        name=name,
        title=name,
        build=build,
        capabilities=capabilities or _declared(build),
        package=package,
        refuses_layer=refuses_layer,
        load=load,
    )


def engine_kinds() -> tuple[EngineKind, ...]:
    """Every registered engine, those of this library first."""
    return tuple(_KINDS.values())


def engine_names(*, timed: bool = False) -> tuple[str, ...]:
    """Names of all registered engines.

    Args:
        timed: Only those that tell the time of single layers.
    """
    return tuple(kind.name for kind in engine_kinds() if kind.capabilities.times_layers or not timed)


def is_registered(kind: EngineKind) -> bool:
    """Whether it is an entry of the registry, and not made of a function that was given in its place."""
    return _KINDS.get(kind.name) is kind


def kind_of(engine: str | Build, *, argument: str = "engine") -> EngineKind:
    """The entry of an engine; one made up for a function that is not registered.

    Args:
        engine: Its name, or the function.
        argument: What the caller calls it, for messages.

    Raises:
        EngineError: If no engine has this name.
    """
    if not isinstance(engine, str) and not callable(engine):
        raise EngineError(
            f"{argument}={engine!r:.80} is neither the name of an engine nor a function that makes one of an ONNX "
            f"file's bytes. Choose one of {', '.join(_KINDS)}."
        )
    if not isinstance(engine, str):
        return EngineKind(name=_name_of(engine), title=_name_of(engine), build=engine, capabilities=_declared(engine))
    if engine not in _KINDS:
        raise EngineError(
            f"{argument}=: no engine is called {engine!r}. Choose one of {', '.join(_KINDS)}, or give a function that "
            "makes an engine of an ONNX file's bytes."
        )
    return _KINDS[engine]


def target_of(target: str | Target) -> Target:
    """What a plan for an engine respects; ``any`` for no particular one.

    Raises:
        EngineError: If no engine has this name.
    """
    if isinstance(target, Target):
        return target
    is_any = isinstance(target, str) and target == ANY_ENGINE.name
    return ANY_ENGINE if is_any else kind_of(target, argument="target").target


def builds_in_half(kind: EngineKind, scheme: Scheme) -> bool:
    """Whether an engine is built of a graph in half precision."""
    return scheme.rest == "fp16" and kind.capabilities.runs_written_types


def check_rest(kind: EngineKind, scheme: Scheme) -> None:
    """Nothing, if an engine can compute what is not quantized in the precision that a scheme asks for.

    Raises:
        ExportError: If the engine runs what is written in the graph, and no graph is written in this precision.
        EngineBuildError: If the engine does not keep modules in fp32.
    """
    if scheme.rest == "fp32":
        return
    if scheme.rest not in kind.capabilities.rests:
        able = " or ".join(repr(other.name) for other in engine_kinds() if scheme.rest in other.capabilities.rests)
        written = "'fp16' or 'fp32'" if "fp16" in kind.capabilities.rests else "'fp32'"
        raise ExportError(
            f"rest={scheme.rest!r} cannot be exported for {kind.name}: it runs a graph in the types that are written "
            f"there, and that is {written}. Deploy to {able}, or choose what is written:",
            python=f"{in_python('fp32')}.",
            shell=f"{in_file('fp32')} in the file of the scheme.",
        )
    if scheme.keep_fp32 and not kind.capabilities.keeps_fp32:
        raise EngineBuildError(
            f"{kind.title} cannot be held to keep_fp32={scheme.keep_fp32}: it drops the mark of an operation when it "
            "rewrites it, and does not tell all that were marked. Leave keep_fp32 out (bf16 has the range of fp32 and "
            "does not overflow), or deploy to 'torch', the simulation."
        )


def check_settings(kind: EngineKind, settings: Mapping[str, Any]) -> None:
    """Nothing, if an engine has all settings that are given, or does not say which it has.

    Raises:
        EngineError: If it lacks one.
    """
    build = kind.build.resolved() if isinstance(kind.build, _Lazy) else kind.build
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD][1:]
    if len(names) + 1 < len(parameters):
        return
    known = [name for name in names if name != "rest"]
    for name in settings:
        if name not in known:
            has = f"It has {', '.join(known)}." if known else "It has none."
            raise EngineError(f"{kind.name!r} has no setting {name!r}. {has}")


def build_engine(kind: EngineKind, graph: ModelProto, plan: Plan, part: Part, **settings: Any) -> Engine:
    """Build an engine.

    Args:
        kind: Which.
        graph: The graph to run.
        plan: What is quantized; the simulation runs it instead of the graph.
        part: What the graph was made of.
        settings: The engine's own.

    Raises:
        MissingPackageError: If the engine's package is not installed.
        EngineBuildError: If it cannot build the graph, or not with the precision of layers that are not quantized.
        ExportError: If no graph is written in the precision of layers that are not quantized.
    """
    check_rest(kind, plan.scheme)
    if kind.is_simulation:
        return with_defaults(kind.build(plan, part))
    if plan.scheme.rest != "fp32" and not kind.capabilities.runs_written_types:
        settings["rest"] = plan.scheme.rest
    return with_defaults(kind.build(graph.SerializeToString(), **settings))


def load_engine(kind: EngineKind, path: Path, graph: ModelProto, **settings: Any) -> Engine:
    """An engine from a file that its ``save`` wrote.

    Args:
        kind: Which.
        path: The file.
        graph: The graph that it must have been built from.
        settings: Those that it was built with; where it runs is read from them.

    Raises:
        MissingPackageError: If the engine's package is not installed.
        EngineError: If this engine has no files, or the file is missing, damaged, or of something else.
    """
    if kind.load is None:
        able = " or ".join(repr(other.name) for other in engine_kinds() if other.load is not None)
        raise EngineError(f"{kind.name} keeps no engines in files: leave load= out. {able} can be loaded.")
    return with_defaults(kind.load(path, graph.SerializeToString(), **settings))


def engine_from_files(kind: EngineKind, graph: bytes, built: Path | None, **settings: Any) -> Engine:
    """An engine of a graph that was deployed before, without the model.

    Args:
        kind: Which.
        graph: The ONNX file's bytes.
        built: File of the built engine; None builds it.
        settings: The engine's own.

    Raises:
        MissingPackageError: If the engine's package is not installed.
        EngineBuildError: If it cannot build the graph.
        EngineError: If it is the simulation, or the file is damaged or of something else.
    """
    if kind.is_simulation:
        raise EngineError(f"{kind.name!r}, the simulation, runs the model and no graph: deploy the model itself.")
    if built is not None and kind.load is not None:
        return with_defaults(kind.load(built, graph, **settings))
    return with_defaults(kind.build(graph, **settings))


def _declared(build: Build) -> EngineCapabilities:
    """What a class says that it can run; the default for a function, which says nothing before it is called."""
    if isinstance(build, type) and Engine in build.__mro__:
        declared: EngineCapabilities = build.capabilities  # type: ignore[attr-defined]
        return declared
    return EngineCapabilities()


def _name_of(build: Build) -> str:
    named = build if hasattr(build, "__name__") else type(build)
    return str(named.__name__)
