"""Modules that an engine runs: one exported submodule with its engine, and a model in which such modules stand."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sensitivity.contracts import Engine
from sensitivity.deploy.engines.inputs import Array
from sensitivity.deploy.graph.export.parts import Part
from sensitivity.deploy.graph.qdq import QdqGraph
from sensitivity.deploy.prepare.signature import Signature
from sensitivity.errors import EngineError
from sensitivity.records.recipes.scheme import IoType

if TYPE_CHECKING:
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
        any_batch: Whether the engine takes any number of samples.
    """

    def __init__(
        self,
        engine: Engine,
        signature: Signature,
        original: nn.Module,
        description: str,
        io: IoType = "fp32",
        *,
        any_batch: bool = False,
    ) -> None:
        super().__init__()
        self._engine = engine
        self._signature = signature
        self._description = description
        self._io = io
        self._any_batch = any_batch
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
        if count == batch or self._any_batch:
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
    any_batch = "batch" in part.part.dynamic
    return EngineModule(part.engine, part.part.signature, original, description, part.io, any_batch=any_batch)


def _shallow(module: nn.Module) -> nn.Module:
    """The same module with its own list of children."""
    duplicate = copy.copy(module)
    object.__setattr__(duplicate, "_modules", dict(module._modules))
    return duplicate
