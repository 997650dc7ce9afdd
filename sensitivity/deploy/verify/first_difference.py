"""Where correct layers give a wrong whole: the first tensor that parts from the simulation, and the node at fault.

Layers are judged by themselves. An engine can still compute something between them wrongly, or fuse what stands between
them in a way that it gets wrong: then the outputs differ and no layer does. Here the outputs of all layers are returned
by the running engine and compared in the order of the graph. From the first that parts, the piece of the graph back to
layers that agree is run alone on the simulation's numbers, and shortened from the front for as long as it stays wrong.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engine_module import DeployedPart
from sensitivity.deploy.graph.cut import Finder
from sensitivity.deploy.graph.nodes import node_name
from sensitivity.deploy.graph.piece import Arrays, as_onnx_defines, cut_piece, nodes_between, read_from
from sensitivity.deploy.graph.qdq import expose
from sensitivity.deploy.outputs import check_output
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import EngineError
from sensitivity.layers.trace.inputs import copied
from sensitivity.perturb.hooks import hooked
from sensitivity.records import Layer
from sensitivity.records.results.first_difference import FirstDifference, Origin
from sensitivity.records.results.verification import Gates, OutputCheck

if TYPE_CHECKING:
    from onnx import NodeProto

_REFERENCE_FAILS = (NotImplementedError, RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)
"""What ``onnx.reference`` raises where it lacks an operator or a form of it."""


@dataclass(frozen=True, eq=False)
class _Target:
    """A tensor of the graph that the simulation has, too.

    Attributes:
        tensor: Its name in the graph.
        layer: Name of the layer that writes it; empty for an output.
        fp32: What it is with nothing quantized.
        simulated: What the simulation has.
    """

    tensor: str
    layer: str
    fp32: Tensor
    simulated: Tensor

    def check(self, computed: Any) -> OutputCheck:
        """The tensor that an engine computed, compared."""
        values = torch.as_tensor(computed)
        if values.numel() == self.simulated.numel():
            values = values.reshape(self.simulated.shape)
        return check_output(self.tensor, [(self.fp32, self.simulated, values)])


def first_differences(
    deployed: Deployed, calls: Mapping[str, Sequence[Any]], thresholds: Gates
) -> tuple[FirstDifference, ...]:
    """For each exported part the first tensor that parts from the simulation; nothing for a part in which none does.

    Args:
        deployed: What is looked into, with non-quantized layers in fp32.
        calls: Arguments of each part, by path; the first that shows a difference is used.
        thresholds: What counts as a difference: the same as for outputs.
    """
    differences = (_of_part(deployed, part, calls[part.path], thresholds) for part in deployed.parts)
    return tuple(difference for difference in differences if difference is not None)


def _of_part(deployed: Deployed, part: DeployedPart, calls: Sequence[Any], thresholds: Gates) -> FirstDifference | None:
    for args, kwargs in calls:
        try:
            search = _Search(deployed, part, args, kwargs, thresholds)
            target = search.first_target()
            if target is not None:
                return search.explained(target)
        except EngineError:
            continue  # it returns another nest than was exported, or the engine does not let itself be looked into
    return None


class _Search:
    """One part on one sample."""

    def __init__(
        self, deployed: Deployed, part: DeployedPart, args: tuple[Any, ...], kwargs: dict[str, Any], thresholds: Gates
    ) -> None:
        self._deployed, self._part, self._thresholds = deployed, part, thresholds
        self._graph = part.qdq.graph
        tensors = part.part.signature.inputs.tensors_of((args, kwargs), part.path or "the model")
        self._inputs = [tensor.cpu().numpy() for tensor in tensors]
        self._targets = _targets(deployed.plan, part, args, kwargs)

    def first_target(self) -> _Target | None:
        """The first tensor that parts; None where no output does.

        All are looked at together first. Looking can change what an engine fuses: where that makes the outputs right,
        each is looked at alone, in steps that halve what is left.
        """
        if all(self._agrees(target, array) for target, array in zip(*self._outputs(self._graph), strict=True)):
            return None
        inside = [target for target in self._targets if target.layer]
        computed = self._looked_at(inside)
        outputs = [target for target in self._targets if not target.layer]
        if not all(self._agrees(target, computed[target.tensor]) for target in outputs):
            return next(target for target in self._targets if not self._agrees(target, computed[target.tensor]))
        order = [*inside, *outputs]
        place = bisect_left(order, True, key=lambda target: not self._agrees(target, self._alone(target)))
        return order[min(place, len(order) - 1)]

    def explained(self, target: _Target) -> FirstDifference:
        """The piece of the graph that is at fault, and whether it is the engine or the graph."""
        check = target.check(self._alone(target))
        nodes, entries = self._smallest_piece(target)
        start, origin = self._blamed(target, nodes, entries)
        piece = nodes if start is None else nodes[start:]
        return FirstDifference(
            self._part.path,
            target.tensor,
            target.layer,
            -math.inf if check.sqnr_db is None else check.sqnr_db,
            check.simulation_sqnr_db,
            tuple(other.layer for other in self._targets if other.layer and other.tensor in entries),
            () if start is None else tuple(node.name or node.output[0] for node in piece),
            () if start is None else tuple(node.op_type for node in piece),
            origin,
        )

    def _smallest_piece(self, target: _Target) -> tuple[list[NodeProto], Arrays]:
        """The nodes behind as many layers as possible of which the engine makes the wrong tensor, and what they read.

        Those directly behind the layers in front of the tensor are enough, but where an engine fuses across layers.
        """
        before = [other for other in self._targets[: self._targets.index(target)] if other.layer]
        if not self._is_wrong(target, self._piece(target, before)[1]):
            counts = range(len(before) - 1, -1, -1)
            place = bisect_left(
                counts, True, key=lambda count: self._is_wrong(target, self._piece(target, before[:count])[1])
            )
            before = before[: counts[place]] if place < len(counts) else before
        return self._piece(target, before)

    def _piece(self, target: _Target, known: Sequence[_Target]) -> tuple[list[NodeProto], Arrays]:
        """The nodes from tensors that are known to another one, and the numbers that they read."""
        inputs = zip((port.name for port in self._graph.graph.input), self._inputs, strict=False)
        numbers = {**dict(inputs), **{other.tensor: other.simulated.cpu().numpy() for other in known}}
        nodes, entries = nodes_between(self._graph, numbers, target.tensor)
        return nodes, {name: numbers[name] for name in entries}

    def _blamed(self, target: _Target, nodes: Sequence[NodeProto], entries: Arrays) -> tuple[int | None, Origin]:
        """Position of the node at which the difference begins, and what is at fault; None where no piece shows it."""
        written = [name for node in nodes for name in node.output if name]
        try:
            defined = as_onnx_defines(cut_piece(self._graph, entries, written), entries)
        except _REFERENCE_FAILS:
            return (0 if self._is_wrong(target, entries) else None), Origin.UNKNOWN
        if not self._agrees(target, defined[target.tensor]):
            return 0, Origin.GRAPH
        if not self._is_wrong(target, entries):
            return None, Origin.UNKNOWN
        known = {**entries, **defined}

        def is_right(start: int) -> bool:
            before = {name for node in nodes[:start] for name in node.output} | entries.keys()
            return not self._is_wrong(target, {name: known[name] for name in read_from(nodes[start:], before)})

        return bisect_left(range(1, len(nodes)), True, key=is_right), Origin.ENGINE

    def _is_wrong(self, target: _Target, entries: Arrays) -> bool:
        """Whether the engine computes a tensor wrongly from these numbers."""
        try:
            engine = self._deployed.build(cut_piece(self._graph, entries, [target.tensor]), self._part.part)
            return not self._agrees(target, engine.run(*entries.values())[0])
        except EngineError:
            return False  # it does not run this piece: nothing is known of it

    def _agrees(self, target: _Target, computed: Any) -> bool:
        return target.check(computed).passes(self._thresholds) is not False

    def _outputs(self, graph: Any) -> tuple[list[_Target], list[Any]]:
        outputs = [target for target in self._targets if not target.layer]
        return outputs, list(self._run(graph))[: len(outputs)]

    def _alone(self, target: _Target) -> Any:
        """What the engine has for one tensor, with nothing else looked at."""
        return self._looked_at([target])[target.tensor]

    def _looked_at(self, targets: Sequence[_Target]) -> dict[str, Any]:
        """What the engine has for these tensors and for the outputs, by name."""
        own = [port.name for port in self._graph.graph.output]
        names = [target.tensor for target in targets if target.tensor not in own]
        return dict(zip([*own, *names], self._run(expose(self._graph, names)), strict=True))

    def _run(self, graph: Any) -> tuple[Any, ...]:
        return self._deployed.build(graph, self._part.part).run(*self._inputs)


def _targets(plan: Plan, part: DeployedPart, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[_Target]:
    """The outputs of the layers in the order of the graph, then those of the part."""
    fp32, fp32_outputs = _recorded(plan, part, args, kwargs)
    with plan.simulated():
        simulated, outputs = _recorded(plan, part, args, kwargs)
    finder, layers = Finder(part.qdq), {name: layer for layer, names in part.qdq.nodes.items() for name in names}
    targets = []
    for node in part.qdq.graph.graph.node:
        if node.name in simulated and node.name in layers and node.name in fp32:
            end = finder.end_of(node.name)
            targets.append(_Target(end, layers[node.name], fp32[node.name], simulated[node.name]))
    ports = [port.name for port in part.qdq.graph.graph.output]
    named = zip(ports, fp32_outputs, outputs, strict=True)
    return targets + [_Target(name, "", *values) for name, *values in named]


def _recorded(
    plan: Plan, part: DeployedPart, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """What the layers that are called as modules return, by node, and what the part returns."""
    seen: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def keep(layer: Layer) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                seen[node_name(layer, calls[layer.name])] = output.detach().clone()
            calls[layer.name] += 1

        return note

    layers = [layer for layer in plan.layers if layer.runs_in is None and layer.weight == "weight"]
    hooks = [(plan.model.get_submodule(layer.module), keep(layer)) for layer in layers]
    module = plan.model.get_submodule(part.path)
    with torch.no_grad(), hooked(after=hooks):
        outputs = module(*copied(args), **copied(kwargs))
    return seen, [tensor.clone() for tensor in part.part.signature.outputs.tensors_of(outputs, "the part")]
