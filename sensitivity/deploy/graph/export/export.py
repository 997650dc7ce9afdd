"""From the folded copy of a model to ONNX: dynamo first, then the older exporter, then submodule by submodule.

Every link of the chain that fails leaves its reason; what no link can export is listed as simulated only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from sensitivity.deploy.graph.export.dynamic import axes_of
from sensitivity.deploy.graph.export.exporters import (
    ExporterError,
    Write,
    write_by_dynamo,
    write_by_tracing,
    write_with_dynamic_axes,
)
from sensitivity.deploy.graph.export.names import with_known_names
from sensitivity.deploy.graph.export.parts import FIXED, Attempt, Exported, GraphForm, Part
from sensitivity.deploy.graph.export.time_limit import TimeIsUpError, within_seconds
from sensitivity.deploy.packages import need
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.deploy.prepare.signature import FlatModule, signature_of
from sensitivity.errors import ExportError
from sensitivity.layers.trace.inputs import copied
from sensitivity.perturb.hooks import hooked

LARGEST_FILE_BYTES = 2**31
"""What protobuf, and so an ONNX file, can hold."""


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
            f"nothing of {plan.layers.model} could be exported:\n{reasons}\nName the submodules that can be,",
            python="parts=...",
            shell="--parts PATH ...",
        )
    return Exported(tuple(exported), tuple(attempts))


def _checked(model: nn.Module, paths: list[str]) -> list[str]:
    first = {id(module): path for path, module in model.named_modules()}  # the name that weights go by
    known = {path: first[id(module)] for path, module in model.named_modules(remove_duplicate=False)}
    for path in paths:
        if path not in known:
            top = ", ".join(name for name, _ in model.named_children())
            why = f"names {path!r}, which is no submodule. At the top there are: {top}."
            raise ExportError(python=f"parts= {why}", shell=f"--parts {why}")
    paths = [known[path] for path in paths]
    nested = [(a, b) for a in paths for b in paths if a != b and (a == "" or b.startswith(a + "."))]
    if nested or len(set(paths)) < len(paths) or not paths:
        why = f"{nested[0][1]!r} lies inside {nested[0][0]!r}" if nested else "it is empty or names a part twice"
        why = f"cannot be exported: {why}. Name submodules beside each other."
        raise ExportError(python=f"parts={paths} {why}", shell=f"--parts {' '.join(paths)} {why}")
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
    size_bytes = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if size_bytes >= LARGEST_FILE_BYTES:
        gigabytes = LARGEST_FILE_BYTES / 1e9
        raise ExportError(
            f"it has weights of {size_bytes / 1e9:.1f} GB in float, an ONNX file holds {gigabytes:.1f} GB"
        )
    args, kwargs = call_of(plan, path)
    signature = signature_of(module, args, kwargs)
    if not signature.inputs.places or not signature.outputs.places:
        raise ExportError("it takes or returns no tensor")
    example = tuple(signature.inputs.tensors_of((args, kwargs), "the part"))
    flat = FlatModule(module, signature).eval()
    exporters: dict[str, Write] = {"dynamo": write_by_dynamo, "legacy": write_by_tracing}
    if form.dynamic:
        exporters = {"dynamo": partial(write_with_dynamic_axes, axes=axes_of(signature, form.dynamic))}
    for exporter, write in exporters.items():
        try:
            graph, printed = write(flat, example, form.opset)
            graph = with_known_names(graph, path, signature)
        except ExportError as error:
            printed = error.printed if isinstance(error, ExporterError) else ""
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
        calls.append((tuple(copied(args)), dict(copied(kwargs))))

    with torch.no_grad(), hooked(before=[(plan.model.get_submodule(path), keep)]):
        plan.model(*copied(plan.basis.args), **copied(plan.basis.kwargs))
    if len(calls) != 1:
        raise ExportError(f"it runs {len(calls)} times in the example pass, one graph stands for one call")
    return calls[0]
