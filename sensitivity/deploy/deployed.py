"""A deployed model: called like the model, with what was exported of it run by an engine."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sensitivity.contracts import Engine, ProfilesLayers
from sensitivity.deploy.bundle.manifest import engine_file
from sensitivity.deploy.bundle.write import PartToSave, ToSave, name_rows, write_bundle
from sensitivity.deploy.doctor.saturation import can_saturate, saturates_here
from sensitivity.deploy.engines.inputs import Array
from sensitivity.deploy.engines.registry import (
    Build,
    EngineKind,
    build_engine,
    check_rest,
    engine_names,
    is_registered,
    kind_of,
    load_engine,
)
from sensitivity.deploy.graph.export import Attempt, Part, export
from sensitivity.deploy.graph.half import check_io, to_half
from sensitivity.deploy.graph.qdq import QdqGraph, insert_qdq
from sensitivity.deploy.prepare.omission import OmissionKind
from sensitivity.deploy.prepare.overflow import check_overflow
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.deploy.prepare.signature import Signature
from sensitivity.errors import EngineError, ExportError
from sensitivity.records import Layer, Scheme
from sensitivity.records.arguments import checked
from sensitivity.records.scheme import IoType
from sensitivity.records.verification import VerificationRecord

if TYPE_CHECKING:
    import pandas as pd
    from onnx import ModelProto


@dataclass(frozen=True, eq=False)
class DeployedPart:
    """One exported submodule with its engine.

    Attributes:
        part: The submodule and its fp32 graph.
        qdq: The graph with Q/DQ, in fp32.
        engine: What runs it.
        graph: What the engine was built of: the graph of ``qdq``, or that in half precision.
        io: Type of the float inputs and outputs of ``graph``.
    """

    part: Part
    qdq: QdqGraph
    engine: Engine
    graph: ModelProto
    io: IoType = "fp32"

    @property
    def path(self) -> str:
        """Path of the submodule; empty for the whole model."""
        return self.part.path

    def arrays_of(self, tensors: Iterable[Tensor]) -> list[Array]:
        """Inputs of the submodule as the engine takes them."""
        return _arrays(tensors, self.io)


def _arrays(tensors: Iterable[Tensor], io: IoType) -> list[Array]:
    halves = io == "fp16"
    return [
        (tensor.half() if halves and tensor.dtype == torch.float32 else tensor).detach().cpu().numpy()
        for tensor in tensors
    ]


class EngineModule(nn.Module):
    """A module whose forward pass an engine runs; other attributes are those of the module it replaces.

    Batches of another size than the engine's are run in pieces, as long as samples can be told apart.

    Args:
        engine: What runs it.
        signature: What it takes and returns.
        original: The module it stands for.
        description: Its name in messages.
        io: Type of the engine's float inputs and outputs; what is taken and returned here is float32 all the same.
    """

    def __init__(
        self, engine: Engine, signature: Signature, original: nn.Module, description: str, io: IoType = "fp32"
    ) -> None:
        super().__init__()
        self._engine = engine
        self._signature = signature
        self._description = description
        self._io = io
        object.__setattr__(self, "_original", original)  # not a submodule: its weights are in the engine
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns, computed by the engine.

        Raises:
            EngineError: If the arguments are not of the form and size that was exported.
        """
        tensors = self._signature.inputs.tensors_of((args, kwargs), self._description)
        device = tensors[0].device
        pieces = [self._run(piece) for piece in self._pieces(tensors)]
        outputs = [torch.from_numpy(array).to(device) for array in self._joined(pieces)]
        return self._signature.outputs.filled(outputs)

    def _run(self, tensors: list[Tensor]) -> tuple[Any, ...]:
        outputs = self._engine.run(*_arrays(tensors, self._io))
        if self._io == "fp32":
            return outputs
        return tuple(array.astype(np.float32) if array.dtype == np.float16 else array for array in outputs)

    def _pieces(self, tensors: list[Tensor]) -> list[list[Tensor]]:
        """The inputs in batches of the engine's size."""
        signature, batch = self._signature, self._signature.batch
        counts = {len(t) for t, many in zip(tensors, signature.batched_inputs, strict=True) if many and t.dim()}
        count = counts.pop() if len(counts) == 1 else batch
        if count == batch:
            return [tensors]
        if not signature.splits or count % batch:
            why = f"no multiple of {batch}" if signature.splits else "its samples cannot be run one by one"
            raise EngineError(
                f"{self._description} was exported for batches of {batch} and was given {count}: {why}. Give batches "
                f"of {batch}, e.g. batch_size={batch} in the task."
            )
        split = [
            torch.split(t, batch) if many else (t,) * (count // batch)
            for t, many in zip(tensors, signature.batched_inputs, strict=True)
        ]
        return [list(piece) for piece in zip(*split, strict=True)]

    def _joined(self, pieces: list[tuple[Any, ...]]) -> list[Any]:
        if len(pieces) == 1:
            return list(pieces[0])
        columns = zip(*pieces, strict=True)
        return [
            np.concatenate(column) if many else column[0]
            for column, many in zip(columns, self._signature.batched_outputs, strict=True)
        ]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            original = self.__dict__.get("_original")
            if original is None or not hasattr(original, name):
                raise
            value = getattr(original, name)
            if inspect.ismethod(value) or isinstance(value, nn.Module):
                raise AttributeError(
                    f"{self._description} runs on an engine, which knows its forward() alone, not {name!r}. "
                    "Deploy the submodules that other methods use instead: parts=[...]."
                ) from None
            return value


class Deployed:
    """A model with what was exported of it run by an engine, called like the model itself.

    Other attributes are those of a copy of the model in which the exported parts are replaced, so that a model with
    methods of its own (``encode``, ``predict_masks``) still has them.

    Attributes:
        plan: What was deployed.
        parts: The exported submodules with their engines.
        attempts: What could not be exported, with the reasons.
        build: Makes an engine of the same kind of another graph of a part; also for another plan, if that is given.
        kind: Entry of the engine in the registry.
        name: Name of the engine.
        settings: The engine's own settings that it was built with.
    """

    def __init__(
        self,
        plan: Plan,
        parts: Iterable[DeployedPart],
        attempts: Iterable[Attempt],
        build: Callable[..., Engine],
        kind: EngineKind,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.plan = plan
        self.build = build
        self.kind = kind
        self.settings = dict(settings or {})
        self.parts = tuple(parts)
        self.attempts = tuple(attempts)
        self.name = self.parts[0].engine.name
        self._model = with_engines(plan.model, self.parts)

    def in_fp32(self) -> Deployed:
        """The same engines, with non-quantized layers in fp32 for all that is simulated or built from now on."""
        plan = self.plan.in_fp32()
        return Deployed(plan, self.parts, self.attempts, partial(self.build, as_planned=plan), self.kind, self.settings)

    @property
    def scheme(self) -> Scheme:
        """What was asked for; ``plan.left_out`` says what of it was not done."""
        return self.plan.scheme

    @functools.cached_property
    def saturating(self) -> tuple[str, ...]:
        """Layers whose sums of 8-bit products can be cut off by this engine on this machine, in execution order.

        Empty where the engine adds in full, which is tried on one convolution, once in a process, and where all weights
        have 7 bits. A function that makes an engine is not tried: it is called with the model's graphs alone.
        """
        if not is_registered(self.kind):
            return ()
        wide = tuple(layer.name for layer in self.plan.quantized if can_saturate(self.plan, layer))
        return wide if wide and saturates_here(self.kind) else ()

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines, one for each part."""
        return tuple(part.engine for part in self.parts)

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            EngineError: If there are several.
        """
        if len(self.parts) != 1:
            raise EngineError(f"this model runs on {len(self.parts)} engines, one for each part: see .engines.")
        return self.parts[0].engine

    @checked(EngineError)
    def save(
        self, folder: str | Path, *, verification: VerificationRecord | None = None, licence: str | None = None
    ) -> tuple[Path, ...]:
        """Write all that is needed to run this elsewhere, and what it was made of; ``sv.load_deployment`` reads it.

        The folder gets the ONNX graphs, the built engines where the engine keeps files (``wrapped.deploy(...,
        load=folder)`` then builds nothing), the scheme, the calibration, a table of names (torch module, ONNX node,
        engine), versions, the hash of every file, and a card, ``README.md``.

        Args:
            folder: Where; made if it is missing.
            verification: What ``wrapped.verify`` returned for this deployment, for the card.
            licence: Licence of the weights, for the card.

        Returns:
            The files.

        Raises:
            EngineError: If this is the simulation, which no file holds, or a file cannot be written.
        """
        if self.kind.is_simulation:
            raise EngineError(f"{self.name!r} is the simulation: it runs the model, and no file holds it.")
        keyword = self.plan.scheme.rest != "fp32" and not self.kind.capabilities.runs_written_types
        settings = self.settings | ({"rest": self.plan.scheme.rest} if keyword else {})
        deployment = ToSave(
            self.plan,
            self.kind.name,
            self._parts_to_save(),
            self.parts[0].io,
            _writes_halves(self.kind, self.plan.scheme),
            settings,
            verification,
            "" if verification is None else str(verification),
            licence,
        )
        return write_bundle(Path(folder), deployment)

    def names(self) -> pd.DataFrame:
        """One row for each node of a layer: layer, torch module, part, ONNX node, engine's name, precision, recipe.

        The engine's name is empty where the engine does not tell what became of a node.
        """
        import pandas as pd

        return pd.DataFrame(name_rows(self.plan, self._parts_to_save()))

    def _parts_to_save(self) -> tuple[PartToSave, ...]:
        return tuple(PartToSave(part.path, part.graph, part.engine, part.qdq.nodes) for part in self.parts)

    @checked(EngineError)
    def profile(self, *, repeats: int = 20) -> dict[str, float]:
        """Seconds that each layer takes on the engine, by layer name, on the inputs it was exported with.

        An operation that runs several layers counts for each of them in equal shares. An engine that waits between
        layers while it profiles takes longer in all than one run does.

        Args:
            repeats: Runs that are averaged, where the engine has a profiler of its own.

        Raises:
            EngineError: If the engine does not tell the time of single layers, or ``repeats`` is not positive.
        """
        if repeats < 1:
            raise EngineError(f"repeats={repeats}: it must be 1 or more.")
        seconds: dict[str, float] = defaultdict(float)
        for part in self.parts:
            arrays = part.arrays_of(part.part.example)
            if isinstance(part.engine, ProfilesLayers):
                part.engine.profile(*arrays, repeats=repeats)
            else:
                part.engine.run(*arrays)
            layer_of = {node: layer for layer, nodes in part.qdq.nodes.items() for node in nodes}
            for operation in part.engine.layer_info():
                layers = {layer_of[node] for node in operation.nodes if node in layer_of}
                if layers and operation.time_s is None:
                    raise EngineError(
                        f"{self.name} does not tell how long a layer takes. Measure on "
                        f"{' or '.join(map(repr, engine_names(timed=True)))}."
                    )
                for layer in layers:
                    seconds[layer] += (operation.time_s or 0.0) / len(layers)
        return dict(seconds)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns for these arguments.

        Raises:
            EngineError: If the arguments are not of the form and size that was exported.
        """
        with torch.no_grad():
            return self._model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_model" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["_model"], name)

    def __repr__(self) -> str:
        part_paths = ", ".join(part.path or "the whole model" for part in self.parts)
        lines = [
            f"Deployed({self.plan.layers.model} on {self.name}: {part_paths}; {len(self.plan.recipes)} of "
            f"{len(self.plan.layers)} layers quantized)"
        ]
        lines += [f"left in float: {name}: {reason}" for name, reason in self.plan.left_out.items()]
        lines += [f"not exported: {attempt}" for attempt in self.attempts]
        lines += [_saturation(self)] if self.saturating else []
        return "\n".join(lines)


def _saturation(deployed: Deployed) -> str:
    return (
        f"on this machine large sums of 8-bit products saturate in {deployed.name}: {len(deployed.saturating)} of "
        f"{len(deployed.plan.layers)} layers can compute something else than was simulated. Quantize with weights in 7 "
        f"bits: sv.recipe_for({deployed.name!r})."
    )


def deploy(
    plan: Plan,
    engine: str | Build = "openvino",
    *,
    parts: Iterable[str] | None = None,
    load: str | Path | None = None,
    io: IoType = "fp32",
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
        settings: The engine's own.

    Raises:
        ExportError: If nothing can be exported, or not in the precision that the scheme asks for, or something would
            overflow in fp16.
        MissingPackageError: If a package is not installed.
        EngineBuildError: If an engine cannot be built, or cannot keep in fp32 what the scheme asks for.
        EngineError: If the engine is unknown, has no such settings, or cannot be loaded: its file is missing, damaged,
            or belongs to another model, scheme, version or GPU.
    """
    kind = kind_of(engine)
    check_rest(kind, plan.scheme)
    if kind.is_simulation and settings:
        raise EngineError(
            f"{kind.name!r}, the simulation, has no settings; it was given {', '.join(settings)}. Leave it out."
        )
    _check_io(kind, plan.scheme, io)
    exported = export(plan, parts)
    graphs = [insert_qdq(part.graph, plan) for part in exported.parts]
    plan = plan.without(_not_exported(plan, graphs, exported.attempts), OmissionKind.NOT_EXPORTED)
    plan = replace(plan, parts=tuple(part.path for part in exported.parts))
    if _writes_halves(kind, plan.scheme):
        check_overflow(plan)

    def build(graph: ModelProto, part: Part, as_planned: Plan = plan) -> Engine:
        return build_engine(kind, graph, as_planned, part, **settings)

    def ready(graph: ModelProto, part: Part) -> Engine:
        if load is None:
            return build(graph, part)
        return load_engine(kind, engine_file(load, part.path), graph, **settings)

    built = []
    for part, qdq in zip(exported.parts, graphs, strict=True):
        graph = to_half(qdq, plan, part.path, io=io) if _writes_halves(kind, plan.scheme) else qdq.graph
        built.append(DeployedPart(part, qdq, ready(graph, part), graph, io))
    deployed = Deployed(plan, built, exported.attempts, build, kind, settings)
    if is_registered(kind):
        _tell_whether_it_saturates(deployed)
    if deployed.saturating:
        warnings.warn(_saturation(deployed), stacklevel=2)
    return deployed


def _tell_whether_it_saturates(deployed: Deployed) -> None:
    """Write what the doctor found into the engines, where they take it."""
    saturates = saturates_here(deployed.kind)
    for engine in deployed.engines:
        if engine.saturates is None:
            with contextlib.suppress(AttributeError):
                engine.saturates = saturates


def _writes_halves(kind: EngineKind, scheme: Scheme) -> bool:
    """Whether an engine is built of a graph in half precision."""
    return scheme.rest == "fp16" and kind.capabilities.runs_written_types


def _check_io(kind: EngineKind, scheme: Scheme, io: IoType) -> None:
    """Nothing, if inputs and outputs can have this type.

    Raises:
        ExportError: If they cannot.
    """
    check_io(io)
    if io != "fp32" and not _writes_halves(kind, scheme):
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


def with_engines(model: nn.Module, parts: Iterable[DeployedPart]) -> nn.Module:
    """A copy of a model in which some submodules run on engines; other modules are shared with it.

    Args:
        model: Not changed.
        parts: Submodules (or the whole model) with their engines. A submodule that the model holds under several names
            is replaced under all of them.
    """
    deployed = {part.path: part for part in parts}
    if "" in deployed:
        return _engine_module(deployed[""], model, type(model).__name__)
    stand_in = _shallow(model)
    copies = {id(model): stand_in}
    for path, part in deployed.items():
        original_part = model.get_submodule(path)
        replaced = _engine_module(part, original_part, path)
        aliases = [name for name, module in model.named_modules(remove_duplicate=False) if module is original_part]
        for alias in aliases:
            *parents, name = alias.split(".")
            holder, original = stand_in, model
            for step in parents:
                original = original.get_submodule(step)
                copied = copies.setdefault(id(original), _shallow(original))
                holder._modules[step] = copied
                holder = copied
            holder._modules[name] = replaced
    return stand_in


def _engine_module(part: DeployedPart, original: nn.Module, description: str) -> EngineModule:
    return EngineModule(part.engine, part.part.signature, original, description, part.io)


def _shallow(module: nn.Module) -> nn.Module:
    """The same module with its own list of children."""
    duplicate = copy.copy(module)
    object.__setattr__(duplicate, "_modules", dict(module._modules))
    return duplicate
