"""Deploy a plan: export it, write Q/DQ, and build the engines, or load them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.contracts import Engine
from sensitivity.deploy.bundle.manifest import engine_file
from sensitivity.deploy.deployed import Deployed, describe_trouble
from sensitivity.deploy.doctor.saturation import saturates_here
from sensitivity.deploy.engine_module import DeployedPart
from sensitivity.deploy.engines.registry import (
    Build,
    EngineKind,
    build_engine,
    builds_in_half,
    check_rest,
    check_settings,
    engine_kinds,
    is_registered,
    kind_of,
    load_engine,
)
from sensitivity.deploy.example_check import check_example, disagreement
from sensitivity.deploy.graph.export.dynamic import DynamicAxis, dynamic_axes
from sensitivity.deploy.graph.export.export import export
from sensitivity.deploy.graph.export.parts import HALF_OPSET, OPSET, Attempt, GraphForm, Part
from sensitivity.deploy.graph.half import check_io, to_half
from sensitivity.deploy.graph.qdq import QdqGraph, insert_qdq
from sensitivity.deploy.other_sizes import check_other_sizes
from sensitivity.deploy.packages import need
from sensitivity.deploy.prepare.omission import OmissionKind
from sensitivity.deploy.prepare.overflow import check_overflow
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import EngineError, ExportError, warn_caller
from sensitivity.records import Layer, Scheme
from sensitivity.records.recipes.scheme import IoType

if TYPE_CHECKING:
    from onnx import ModelProto


def deploy(
    plan: Plan,
    engine: str | Build = "openvino",
    *,
    parts: Iterable[str] | None = None,
    load: str | Path | None = None,
    io: IoType = "fp32",
    export_limit_s: float | None = None,
    dynamic: DynamicAxis | Collection[DynamicAxis] | None = None,
    **settings: Any,
) -> Deployed:
    """Export a plan, write Q/DQ and build engines, or load them.

    Args:
        plan: What is deployed.
        engine: ``openvino``, ``onnxruntime``, ``tensorrt``, ``torch``, or a function that makes an engine of an ONNX
            file's bytes.
        parts: Paths of the submodules to export; None exports the whole model, and where that fails as much of it as
            can be, submodule by submodule.
        load: Folder that ``Deployed.save`` wrote: the engines are read from there and not built.
        io: Type of the float inputs and outputs of a graph in half precision.
        export_limit_s: Seconds that the export may take; None sets no limit.
        dynamic: What may change in size when the engine is run: ``batch``, ``size`` (height and width of images), or
            both; checked by running another size. None fixes the sizes of the example.
        settings: The engine's own.

    Raises:
        ExportError: If nothing can be exported, or not in the precision that the scheme asks for, or something would
            overflow in fp16.
        MissingPackageError: If a package is not installed.
        EngineBuildError: If an engine cannot be built, or cannot keep in fp32 what the scheme asks for.
        EngineError: If the engine is unknown, has no such settings, or cannot be loaded: its file is missing, damaged,
            or belongs to another model, scheme, version or GPU; or if it returns NaN or infinity for the example
            inputs where the simulation does not.

    Warns:
        DisagreementWarning: If what it returns for the example inputs is not what is simulated.
    """
    kind = kind_of(engine)
    check_rest(kind, plan.scheme)
    if kind.is_simulation and settings:
        raise EngineError(
            f"{kind.name!r}, the simulation, has no settings; it was given {', '.join(settings)}. Leave it out."
        )
    _check_io(kind, plan.scheme, io)
    if kind.package is not None and kind.extra is not None:
        need(kind.package, kind.extra)  # first: its extra brings what export needs as well
    check_settings(kind, settings)
    axes = dynamic_axes(dynamic)
    _check_dynamic(kind, axes)
    form = GraphForm(axes, HALF_OPSET if builds_in_half(kind, plan.scheme) else OPSET)
    exported = export(plan, parts, limit_s=export_limit_s, form=form)
    graphs = [insert_qdq(part.graph, plan) for part in exported.parts]
    plan = plan.without(_not_exported(plan, graphs, exported.attempts), OmissionKind.NOT_EXPORTED)
    plan = replace(plan, parts=tuple(part.path for part in exported.parts))
    if builds_in_half(kind, plan.scheme):
        check_overflow(plan)

    def build(graph: ModelProto, part: Part, as_planned: Plan = plan) -> Engine:
        return build_engine(kind, graph, as_planned, part, **settings)

    def ready(graph: ModelProto, part: Part) -> Engine:
        if load is None:
            return build(graph, part)
        return load_engine(kind, engine_file(load, part.path), graph, **settings)

    built = []
    for part, qdq in zip(exported.parts, graphs, strict=True):
        graph = to_half(qdq, plan, part.path, io=io) if builds_in_half(kind, plan.scheme) else qdq.graph
        built.append(DeployedPart(part, qdq, ready(graph, part), graph, io))
    deployed = Deployed(plan, built, exported.attempts, build, kind, settings=settings)
    check_other_sizes(plan, built, axes, settings, build, exact=not deployed.saturating)
    if is_registered(kind):
        _tell_whether_it_saturates(deployed)
    deployed.on_example = check_example(deployed)
    deployed.disagreement = disagreement(deployed.on_example, plan.scheme)
    trouble = describe_trouble(deployed)
    if trouble is not None:
        warn_caller(trouble.text, trouble.category, python=trouble.python, shell=trouble.shell)
    return deployed


def _tell_whether_it_saturates(deployed: Deployed) -> None:
    """Write what the doctor found into the engines, where they take it."""
    saturates = saturates_here(deployed.kind)
    for engine in deployed.engines:
        if engine.saturates is None:
            with contextlib.suppress(AttributeError):
                engine.saturates = saturates


def _check_dynamic(kind: EngineKind, axes: Sequence[DynamicAxis]) -> None:
    """Nothing, if the engine takes inputs of several sizes.

    Raises:
        ExportError: If it does not.
    """
    for axis in axes:
        if axis not in kind.capabilities.dynamic:
            able = [repr(other.name) for other in engine_kinds() if axis in other.capabilities.dynamic]
            raise ExportError(
                f"dynamic={axis!r}: {kind.title} is not known to run graphs in which this changes. Leave it out and "
                f"deploy for each size, or deploy to {' or '.join(able)}."
            )


def _check_io(kind: EngineKind, scheme: Scheme, io: IoType) -> None:
    """Nothing, if inputs and outputs can have this type.

    Raises:
        ExportError: If they cannot.
    """
    check_io(io)
    if io != "fp32" and not builds_in_half(kind, scheme):
        raise ExportError(
            f"io={io!r} goes with a graph in half precision: scheme.with_rest('fp16'), on an engine that runs the "
            f"types in its graph. This scheme has rest={scheme.rest!r}, and the engine is {kind.name}. Leave io out."
        )


def _not_exported(plan: Plan, graphs: list[QdqGraph], attempts: Iterable[Attempt]) -> dict[str, str]:
    """Layers that the plan quantizes and no graph does, with the reason."""
    in_a_graph = {name for qdq in graphs for name in qdq.nodes}
    reasons: dict[str, str] = {}
    for layer in plan.quantized:
        if layer.name in in_a_graph:
            continue
        miscounted = next((qdq.missing[layer.name] for qdq in graphs if layer.name in qdq.missing), None)
        around = [attempt for attempt in attempts if attempt.part and _holds(attempt.part, layer.module)]
        reasons[layer.name] = miscounted or (str(around[-1]) if around else _hidden(layer, graphs))
    return reasons


def _hidden(layer: Layer, graphs: Iterable[QdqGraph]) -> str:
    """Why no node of the exported graphs is known to multiply by a layer's weight."""
    parameter = layer.parameter
    kinds = {node.op_type for qdq in graphs for node in qdq.graph.graph.node if parameter in node.input}
    if not kinds:
        return "no exported graph has a node that multiplies by its weight"
    return (
        f"the exported graph gives its weight to {', '.join(sorted(kinds))}: no node multiplies by what the layer "
        "multiplied by when it was traced"
    )


def _holds(part: str, module: str) -> bool:
    return f"{module}.".startswith(f"{part}.")
