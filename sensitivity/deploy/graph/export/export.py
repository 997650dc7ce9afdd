"""From the folded copy of a model to ONNX: dynamo first, then the older exporter, then submodule by submodule.

Every link of the chain that fails leaves its reason; what no link can export is listed as simulated only.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.utils._pytree import tree_map

from sensitivity.deploy.graph.export.asked import Line, values_asked
from sensitivity.deploy.graph.export.dynamic import DynamicAxis, axes_of, with_samples
from sensitivity.deploy.graph.export.time_limit import TimeIsUpError, within_seconds
from sensitivity.deploy.packages import need
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.deploy.prepare.signature import FlatModule, Signature, signature_of
from sensitivity.errors import ExportError
from sensitivity.layers.trace.recurrent import step_by_step
from sensitivity.perturb.hooks import hooked

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""The version of ONNX operators that is written; every engine here reads it."""

HALF_OPSET = 20
"""The version for graphs in half precision: the first with GELU as one operator, which then rounds once, as torch's."""

_Write = Callable[[FlatModule, tuple[Tensor, ...], int], "tuple[ModelProto, str]"]
"""An exporter: gives the graph, and what it printed."""

CORE = "core."
"""Where the module stands that exporters are given: ``FlatModule`` holds it."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal


@dataclass(frozen=True, slots=True)
class Attempt:
    """One link of the chain that failed.

    Attributes:
        part: Path of the submodule; empty for the whole model.
        exporter: ``dynamo``, ``legacy``, or ``none`` where there was nothing to try.
        reason: What was wrong.
        printed: What the exporter printed and warned of.
    """

    part: str
    exporter: str
    reason: str
    printed: str = field(default="", compare=False)

    def __str__(self) -> str:
        subject = self.part or "the whole model"
        return f"{subject}: {self.reason}" if self.exporter == "none" else f"{subject} ({self.exporter}): {self.reason}"


@dataclass(frozen=True)
class GraphForm:
    """What graphs are written for.

    Attributes:
        dynamic: What may change in size when they are run.
        opset: Version of ONNX operators.
    """

    dynamic: tuple[DynamicAxis, ...] = ()
    opset: int = OPSET


FIXED = GraphForm()
"""The sizes of the example, for any engine."""


@dataclass(frozen=True, eq=False)
class Part:
    """A submodule as an fp32 graph.

    Attributes:
        path: Its path in the model; empty for the whole model.
        graph: The graph; weights are named by their path in the whole model.
        signature: What it takes and returns.
        exporter: Which exporter wrote it.
        example: The input tensors of the example pass.
        printed: What the exporter printed and warned of.
        dynamic: What may change in size.
    """

    path: str
    graph: ModelProto
    signature: Signature
    exporter: str
    example: tuple[Tensor, ...]
    printed: str = ""
    dynamic: tuple[DynamicAxis, ...] = ()


class _ExporterError(ExportError):
    """An exporter failed.

    Attributes:
        printed: What it printed and warned of.
    """

    printed = ""


@dataclass(frozen=True, eq=False)
class Exported:
    """What could be exported of a model, and what not.

    Attributes:
        parts: The graphs, none inside another.
        attempts: What failed on the way.
    """

    parts: tuple[Part, ...]
    attempts: tuple[Attempt, ...]


def export(
    plan: Plan,
    parts: Iterable[str] | None = None,
    *,
    limit_s: float | None = None,
    form: GraphForm = FIXED,
) -> Exported:
    """Write the folded copy as ONNX graphs in fp32; done once for all plans on one basis.

    Args:
        plan: Holds the copy and example arguments.
        parts: Paths of the submodules to export; None exports the whole model, and where that fails as much of it as
            can be, submodule by submodule.
        limit_s: Seconds that all of it may take; None sets no limit.
        form: What the graphs are for.

    Raises:
        ExportError: If a path is no submodule, one lies inside another, nothing at all can be exported, or the time is
            up.
        MissingPackageError: If the packages that write ONNX are not installed.
    """
    need("onnx", "onnx")
    need("onnxscript", "onnx")
    paths = None if parts is None else tuple(parts)
    key = (paths, form)
    if key not in plan.basis.exports:
        attempts: list[Attempt] = []
        try:
            with within_seconds(limit_s):
                plan.basis.exports[key] = _export(plan, paths, form, attempts)
        except TimeIsUpError:
            raise _too_slow(plan, limit_s, attempts) from None
    exported: Exported = plan.basis.exports[key]
    return exported


def _too_slow(plan: Plan, limit_s: float | None, attempts: Sequence[Attempt]) -> ExportError:
    failed = "".join(f"\n- {attempt}" for attempt in attempts)
    return ExportError(
        f"the export of {plan.layers.model} was stopped after export_limit_s={limit_s} seconds. Give more, or name "
        f"submodules that export faster, parts=...{failed and f' What had failed by then:{failed}'}"
    )


def _export(plan: Plan, parts: tuple[str, ...] | None, form: GraphForm, attempts: list[Attempt]) -> Exported:
    paths = [""] if parts is None else _checked(plan.model, list(parts))
    exported: list[Part] = []
    for path in paths:
        _export_or_descend(plan, path, form, exported, attempts, descend=parts is None)
    if not exported:
        reasons = "\n".join(f"- {attempt}" for attempt in attempts)
        raise ExportError(
            f"nothing of {plan.layers.model} could be exported:\n{reasons}\nName the submodules that can be, parts=..."
        )
    return Exported(tuple(exported), tuple(attempts))


def _checked(model: nn.Module, paths: list[str]) -> list[str]:
    first = {id(module): path for path, module in model.named_modules()}  # the name that weights go by
    known = {path: first[id(module)] for path, module in model.named_modules(remove_duplicate=False)}
    for path in paths:
        if path not in known:
            top = ", ".join(name for name, _ in model.named_children())
            raise ExportError(f"parts= names {path!r}, which is no submodule. At the top there are: {top}.")
    paths = [known[path] for path in paths]
    nested = [(a, b) for a in paths for b in paths if a != b and (a == "" or b.startswith(a + "."))]
    if nested or len(set(paths)) < len(paths) or not paths:
        why = f"{nested[0][1]!r} lies inside {nested[0][0]!r}" if nested else "it is empty or names a part twice"
        raise ExportError(f"parts={paths} cannot be exported: {why}. Name submodules beside each other.")
    return paths


def _export_or_descend(
    plan: Plan,
    path: str,
    form: GraphForm,
    exported: list[Part],
    attempts: list[Attempt],
    *,
    descend: bool,
) -> None:
    """Export a submodule, or else its children that hold layers of the model."""
    try:
        exported.append(_export_part(plan, path, form, attempts))
        return
    except ExportError as error:
        attempts.append(Attempt(path, "none", str(error)))
    if not descend:
        return
    prefix = f"{path}." if path else ""
    for name, _ in plan.model.get_submodule(path).named_children():
        child = prefix + name
        if any(layer.module == child or layer.module.startswith(child + ".") for layer in plan.layers):
            _export_or_descend(plan, child, form, exported, attempts, descend=True)


def _export_part(plan: Plan, path: str, form: GraphForm, attempts: list[Attempt]) -> Part:
    module = plan.model.get_submodule(path)
    args, kwargs = call_of(plan, path)
    signature = signature_of(module, args, kwargs)
    if not signature.inputs.places or not signature.outputs.places:
        raise ExportError("it takes or returns no tensor")
    example = tuple(signature.inputs.tensors_of((args, kwargs), "the part"))
    flat = FlatModule(module, signature).eval()
    exporters: dict[str, _Write] = {"dynamo": _dynamo, "legacy": _legacy}
    if form.dynamic:
        exporters = {"dynamo": partial(_dynamic, axes=axes_of(signature, form.dynamic))}
    for exporter, write in exporters.items():
        try:
            graph, printed = write(flat, example, form.opset)
            graph = _named(graph, path, signature)
        except ExportError as error:
            printed = error.printed if isinstance(error, _ExporterError) else ""
            attempts.append(Attempt(path, exporter, str(error), printed))
            continue
        return Part(path, graph, signature, exporter, example, printed, form.dynamic)
    raise ExportError("neither exporter can write it" if not form.dynamic else f"not with dynamic={form.dynamic}")


def call_of(plan: Plan, path: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a submodule is called with in the example pass.

    Raises:
        ExportError: If it is not called exactly once.
    """
    if path == "":
        return plan.basis.args, dict(plan.basis.kwargs)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        copied = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        calls.append((tuple(copied[0]), dict(copied[1])))

    with torch.no_grad(), hooked(before=[(plan.model.get_submodule(path), keep)]):
        plan.model(*plan.basis.args, **plan.basis.kwargs)
    if len(calls) != 1:
        raise ExportError(f"it runs {len(calls)} times in the example pass, one graph stands for one call")
    return calls[0]


def _dynamic(
    module: FlatModule, example: tuple[Tensor, ...], opset: int, *, axes: Sequence[Sequence[int]]
) -> tuple[ModelProto, str]:
    """Through ``torch.export`` with axes whose length may change; with two samples, as it takes one for a constant."""
    shapes = tuple(dict.fromkeys(own, torch.export.Dim.DYNAMIC) for own in axes)
    return _dynamo(module, tuple(with_samples(example, axes, 2)), opset, dynamic_shapes={"tensors": shapes})


def _dynamo(module: FlatModule, example: tuple[Tensor, ...], opset: int, **options: Any) -> tuple[ModelProto, str]:
    """Through ``torch.export``; constants are folded, bar parameters: weights keep name and content."""
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedOpsetsPass
    from onnxscript import optimizer

    with _translated("torch.onnx.export(dynamo=True)") as printed, step_by_step(module):
        options |= {"dynamo": True, "optimize": False, "opset_version": opset, "verbose": False}
        program = torch.onnx.export(module, example, **options)
        assert program is not None
        model = program.model
        optimizer.inline(model)  # torch before 2.11 writes some operators as functions, which engines do not know
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        optimizer.fold_constants(model, should_fold=lambda node: _may_be_folded(node, parameters))
        optimizer.remove_unused_nodes(model)
        RemoveUnusedOpsetsPass()(model)
        graph: ModelProto = onnx_ir.to_proto(model)
    return graph, printed.getvalue()


def _may_be_folded(node: Any, parameters: set[str]) -> bool | None:
    """False where a node reads a parameter: a layer is known by the parameter that its weight is made of."""
    return False if any(value is not None and value.name in parameters for value in node.inputs) else None


def _legacy(module: FlatModule, example: tuple[Tensor, ...], opset: int) -> tuple[ModelProto, str]:
    """By tracing one pass, if that pass asks no tensor for its value: the answer would become part of the graph."""
    import onnx

    with _translated("torch.onnx.export(dynamo=False)") as printed, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always", TracerWarning)
            with step_by_step(module):
                torch.onnx.export(module, example, path, dynamo=False, opset_version=opset)
        graph: ModelProto = onnx.load(path)
        _write_down(recorded, printed)
    lines = {(warning.filename, warning.lineno) for warning in recorded if issubclass(warning.category, TracerWarning)}
    if lines and (baked := _baked_in(module, example, lines)):
        raise ExportError(f"torch.onnx.export(dynamo=False) would bake what this example holds into the graph: {baked}")
    return graph, printed.getvalue()


def _baked_in(module: FlatModule, example: tuple[Tensor, ...], lines: Collection[Line]) -> str:
    """What a trace took from the values of tensors; empty where it asked for their sizes alone, which are fixed.

    A size is a tensor while a pass is traced, and is none otherwise; and a model may take another way when it is
    traced. So what counts is asked for in a pass that is not traced, at a line that the tracer warned of.

    Args:
        module: What was traced.
        example: With what.
        lines: Where the tracer warned.
    """
    with _translated("running it"):
        values = values_asked(lambda: module(*example))
    return "; ".join(str(value) for value in values if value.among(lines))


@contextlib.contextmanager
def _translated(subject: str) -> Iterator[io.StringIO]:
    """Exporters talk about themselves and fail in many ways: keep the first, translate the second.

    Yields:
        What is printed and warned of; complete behind the ``with`` block.
    """
    printed = io.StringIO()
    try:
        with _kept_quiet(printed), torch.no_grad():
            yield printed
    except Exception as error:
        reason = error.__cause__ or error  # dynamo wraps the reason in advice
        lines = [line.strip() for line in _COLOURS.sub("", str(reason)).splitlines() if line.strip()]
        failed = _ExporterError(f"{subject} failed: {type(reason).__name__}: {lines[0] if lines else 'no message'}")
        failed.printed = printed.getvalue()
        raise failed from error


@contextlib.contextmanager
def _kept_quiet(printed: io.StringIO) -> Iterator[None]:
    """Nothing printed, no warnings and no logs of torch: a failed export dumps its graph.

    Args:
        printed: Gets what would have been printed, and the warnings; logs are dropped.
    """
    loggers = [logging.getLogger(name) for name in ("torch", *logging.root.manager.loggerDict) if name[:5] == "torch"]
    disabled = [logger.disabled for logger in loggers]
    exporter = logging.getLogger("torch.onnx")  # makes further ones on its way
    level = exporter.level
    with contextlib.ExitStack() as stack:
        warned = stack.enter_context(warnings.catch_warnings(record=True))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(printed))
        warnings.simplefilter("default")
        exporter.setLevel(logging.ERROR)
        for logger in loggers:
            logger.disabled = True
        try:
            yield
        finally:
            exporter.setLevel(level)
            for logger, was in zip(loggers, disabled, strict=True):
                logger.disabled = was
            _write_down(warned, printed)


def _write_down(warned: Sequence[warnings.WarningMessage], printed: io.StringIO) -> None:
    for warning in warned:
        printed.write(f"{warning.category.__name__}: {warning.message}\n")


def _named(graph: ModelProto, path: str, signature: Signature) -> ModelProto:
    """The graph with inputs and outputs numbered, and weights named by their path in the whole model."""
    import onnx

    inputs, outputs = list(graph.graph.input), list(graph.graph.output)
    if len(inputs) != len(signature.inputs.places) or len(outputs) != len(signature.outputs.places):
        raise ExportError(
            f"its graph has {len(inputs)} inputs and {len(outputs)} outputs, the module has "
            f"{len(signature.inputs.places)} and {len(signature.outputs.places)} tensors: an argument is not used, or "
            "an output is the same tensor twice"
        )
    prefix = f"{path}." if path else ""
    names = {
        tensor.name: prefix + tensor.name.removeprefix(CORE)
        for tensor in graph.graph.initializer
        if tensor.name.startswith(CORE)
    }
    names |= {port.name: f"input{number}" for number, port in enumerate(inputs)}
    _rename(graph, names)
    for number, output in enumerate(graph.graph.output):
        # an Identity: engines give the name of an output to what computes it, and the layer's own would be lost
        source, output.name = names.get(output.name, output.name), f"output{number}"
        graph.graph.node.append(onnx.helper.make_node("Identity", [source], [output.name], name=output.name))
    try:
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"its graph is not valid ONNX: {error}") from error
    return graph


def _rename(graph: ModelProto, names: dict[str, str]) -> None:
    for node in graph.graph.node:
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)
    for values in (graph.graph.initializer, graph.graph.input, graph.graph.value_info):
        for value in values:
            value.name = names.get(value.name, value.name)
