"""Whether a graph with dynamic axes computes the same at sizes other than those it was exported with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sensitivity.contracts import Engine
from sensitivity.deploy.engine_module import DeployedPart
from sensitivity.deploy.graph.export.dynamic import DynamicAxis, axes_of, with_other_size, with_samples
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.deploy.prepare.signature import tensors_of_nest
from sensitivity.errors import EngineError, ExportError
from sensitivity.layers.trace.inputs import copied

if TYPE_CHECKING:
    from onnx import ModelProto

LOST_DB = 10.0
"""How much worse an engine may agree with the simulation at another size than at the exported one."""

ABOVE_FLOAT_DB = 6.0
"""How much closer to the simulation it is at the exported size than the simulation is to float, or else it is compared
with one for fixed sizes: in a deep network the last bits of two correct computations grow to errors of that size."""

CHANCE_DB = 3.0
"""How much worse it may agree with the simulation than one for fixed sizes."""

ENOUGH_DB = 30.0
"""An agreement that is enough at any size; so is that of the simulation with float: last bits grow to that in a deep
network, and what is fixed in a graph costs far more."""


def check_other_sizes(
    plan: Plan,
    parts: Sequence[DeployedPart],
    dynamic: Sequence[DynamicAxis],
    settings: Mapping[str, Any],
    build: Callable[..., Engine],
    *,
    exact: bool = True,
) -> None:
    """Run every part with two samples (with the most that ``batch=`` allows) and with larger images.

    Args:
        plan: What was deployed.
        parts: The engines.
        dynamic: What may change.
        settings: The engine's own.
        build: Makes an engine of the same kind of another graph of a part.
        exact: Whether the engine should compute what is simulated: False where its sums saturate.

    Raises:
        ExportError: If an engine does not compute what is simulated when sizes may change, refuses the other size, or
            agrees with the simulation less there than at the exported one.
    """
    samples = int(settings["batch"][2]) if settings.get("batch") else 2
    for part in parts if dynamic else ():
        usual_db, float_db = _agreement_db(plan, part, list(part.part.example))
        if exact and usual_db < min(float_db + ABOVE_FLOAT_DB, ENOUGH_DB):
            fixed = replace(part, engine=build(_with_fixed_sizes(part), part.part))
            fixed_db, _ = _agreement_db(plan, fixed, list(part.part.example))
            if usual_db < fixed_db - CHANCE_DB:
                raise ExportError(
                    f"dynamic={tuple(dynamic)}: where sizes may change, {part.path or 'the model'} on "
                    f"{part.engine.name} agrees with the simulation to {usual_db:.1f} dB only, even at the exported "
                    f"sizes; where they are fixed, to {fixed_db:.1f} dB. Leave dynamic out and deploy for each size, "
                    "or to another engine."
                )
        axes = axes_of(part.part.signature, dynamic)
        for axis in dynamic:
            inputs = _other_inputs(part, axis, axes, samples)
            try:
                agreement_db, float_db = _agreement_db(plan, part, inputs)
            except (EngineError, RuntimeError) as error:
                raise ExportError(f"dynamic={axis!r}: {_with(part, inputs)} fails: {error}") from error
            if agreement_db < min(usual_db - LOST_DB, ENOUGH_DB, float_db):
                raise ExportError(
                    f"dynamic={axis!r}: {_with(part, inputs)} agrees with the simulation to {agreement_db:.1f} dB, and "
                    f"with the exported sizes to {usual_db:.1f} dB. Something of the size is fixed in the graph: leave "
                    f"{axis!r} out, and deploy for each size."
                )


def _with_fixed_sizes(part: DeployedPart) -> ModelProto:
    """The part's graph for inputs of the exported sizes alone."""
    graph = type(part.graph)()
    graph.CopyFrom(part.graph)
    weights = {tensor.name for tensor in graph.graph.initializer}
    ports = [port for port in graph.graph.input if port.name not in weights]
    for port, tensor in zip(ports, part.part.example, strict=True):
        for size, length in zip(port.type.tensor_type.shape.dim, tensor.shape, strict=True):
            size.dim_value = length
    return graph


def _other_inputs(part: DeployedPart, axis: DynamicAxis, axes: Sequence[Sequence[int]], samples: int) -> list[Tensor]:
    example = part.part.example
    return with_samples(example, axes, samples) if axis == "batch" else with_other_size(example, axes)


def _with(part: DeployedPart, inputs: Sequence[Tensor]) -> str:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
    return f"{part.path or 'the model'} on {part.engine.name} with inputs {shapes}"


def _agreement_db(plan: Plan, part: DeployedPart, tensors: list[Tensor]) -> tuple[float, float]:
    """The lowest SQNR of an output of the engine to the same output of the simulation, and of the latter to float."""
    args, kwargs = part.part.signature.inputs.filled([tensor.clone() for tensor in tensors])
    with torch.no_grad():
        in_float = tensors_of_nest(plan.model.get_submodule(part.path)(*copied(args), **copied(kwargs)))
        with plan.simulated() as model:
            simulated = tensors_of_nest(model.get_submodule(part.path)(*copied(args), **copied(kwargs)))
    computed = [torch.from_numpy(array) for array in part.engine.run(*part.arrays_of(tensors))]
    return (
        min(_same_db(wanted, tensor) for wanted, tensor in zip(simulated, computed, strict=True)),
        min(_same_db(wanted, tensor) for wanted, tensor in zip(in_float, simulated, strict=True)),
    )


def _same_db(wanted: Tensor, computed: Tensor) -> float:
    if wanted.shape != computed.shape:
        return -float("inf")
    if not wanted.is_floating_point():
        return ENOUGH_DB if torch.equal(wanted, computed) else -float("inf")
    return sqnr_db(wanted, computed.to(wanted.dtype))
