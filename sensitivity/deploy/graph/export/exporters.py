"""The exporters of torch, one function each: what they print is kept, and what they raise is translated."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning

from sensitivity.deploy.graph.export.asked import Line, values_asked
from sensitivity.deploy.graph.export.descriptors import descriptors_kept
from sensitivity.deploy.graph.export.dynamic import with_samples
from sensitivity.deploy.prepare.signature import FlatModule
from sensitivity.errors import ExportError
from sensitivity.layers.trace.recurrent import step_by_step

if TYPE_CHECKING:
    from onnx import ModelProto

Write = Callable[[FlatModule, tuple[Tensor, ...], int], "tuple[ModelProto, str]"]
"""An exporter: gives the graph, and what it printed."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal


class ExporterError(ExportError):
    """An exporter failed.

    Attributes:
        printed: What it printed and warned of.
    """

    printed = ""


def write_with_dynamic_axes(
    module: FlatModule, example: tuple[Tensor, ...], opset: int, *, axes: Sequence[Sequence[int]]
) -> tuple[ModelProto, str]:
    """Through ``torch.export`` with axes whose length may change; with two samples, as it takes one for a constant."""
    shapes = tuple(dict.fromkeys(own, torch.export.Dim.DYNAMIC) for own in axes)
    return write_by_dynamo(module, tuple(with_samples(example, axes, 2)), opset, dynamic_shapes={"tensors": shapes})


def write_by_dynamo(
    module: FlatModule, example: tuple[Tensor, ...], opset: int, **options: Any
) -> tuple[ModelProto, str]:
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


def write_by_tracing(module: FlatModule, example: tuple[Tensor, ...], opset: int) -> tuple[ModelProto, str]:
    """By tracing one pass, if that pass asks no tensor for its value: the answer would become part of the graph."""
    import onnx

    with _translated("torch.onnx.export(dynamo=False)") as printed, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always", TracerWarning)
            with step_by_step(module):
                torch.onnx.export(module, example, path, dynamo=False, opset_version=opset)
        graph: ModelProto = onnx.load(path)
        _give_own_vectors(graph)
        _write_down(recorded, printed)
    lines = {(warning.filename, warning.lineno) for warning in recorded if issubclass(warning.category, TracerWarning)}
    if lines and (baked := _baked_in(module, example, lines)):
        raise ExportError(f"torch.onnx.export(dynamo=False) would bake what this example holds into the graph: {baked}")
    return graph, printed.getvalue()


def _give_own_vectors(graph: ModelProto) -> None:
    """Let every bias be a constant again: of equal ones this exporter keeps one, and reads it through Identities."""
    vectors = {tensor.name: tensor for tensor in graph.graph.initializer if len(tensor.dims) == 1}
    returned = {port.name for port in graph.graph.output}
    for node in [node for node in graph.graph.node if node.op_type == "Identity"]:
        if node.input[0] in vectors and node.output[0] not in returned:
            own = graph.graph.initializer.add()
            own.CopyFrom(vectors[node.input[0]])
            own.name = node.output[0]
            graph.graph.node.remove(node)


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
        failed = ExporterError(f"{subject} failed: {type(reason).__name__}: {lines[0] if lines else 'no message'}")
        failed.printed = printed.getvalue()
        raise failed from error


@contextlib.contextmanager
def _kept_quiet(printed: io.StringIO) -> Iterator[None]:
    """Nothing printed, by Python or by C, no warnings and no logs of torch: a failed export dumps its graph.

    Args:
        printed: Gets what would have been printed, and the warnings; logs are dropped.
    """
    loggers = [logging.getLogger(name) for name in ("torch", *logging.root.manager.loggerDict) if name[:5] == "torch"]
    disabled = [logger.disabled for logger in loggers]
    exporter = logging.getLogger("torch.onnx")  # makes further ones on its way
    level = exporter.level
    with contextlib.ExitStack() as stack:
        stack.enter_context(descriptors_kept(printed.write))
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
