"""One layer by itself: from what the simulation has at its input, what does the engine compute?

End to end, codes cannot be compared: a handful flip at the first layer (float rounding in the last bit), and each flip
moves others behind it. From the same input codes a layer has only its own flips. A layer of which only weights or only
activations are quantized has no codes behind it; its float output is compared instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engine_module import DeployedPart
from sensitivity.deploy.graph.cut import Finder
from sensitivity.deploy.graph.nodes import node_name
from sensitivity.deploy.graph.qdq import QdqGraph
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import EngineError
from sensitivity.layers.trace.inputs import copied
from sensitivity.quantize.fake import dequantize, quantize
from sensitivity.quantize.scales import QuantParams, params_from_range
from sensitivity.records import Layer, QuantSpec

if TYPE_CHECKING:
    from onnx import ModelProto

Counts = tuple[int, int, int]
"""Codes compared, codes that differ, and the largest difference in steps."""

NOTHING_COMPARED: Counts = (0, 0, 0)

_MATRIX = 2


@dataclass(frozen=True, slots=True)
class Agreement:
    """What one layer, or one call of it, computes by itself.

    Attributes:
        counts: Codes compared, codes that differ, largest difference.
        sqnr_db: Of its float output, where it has no codes; None where it has, or nothing was compared.
        reason: Why it could not be tried, or not all of its calls; empty where all were.
    """

    counts: Counts = NOTHING_COMPARED
    sqnr_db: float | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class LayerTrial:
    """One call of a layer, cut out.

    Attributes:
        layer: The layer.
        call: Which call.
        graph: Takes the layer's input in float and returns codes, or its output in float.
        inputs: What the simulation computes with there: the values of its input codes, or the input in float.
        wanted: What the simulation has at the end of the graph.
        lasts: Whether the graph serves other samples, too: it has no scale that depends on the sample.
    """

    layer: Layer
    call: int
    graph: ModelProto
    inputs: Tensor
    wanted: Tensor
    lasts: bool = True


@dataclass
class SimulatedCall:
    """What the simulation had at one call of a layer.

    Attributes:
        inputs: Its input, before it is quantized.
        codes: Codes of its input; None where that stays in float.
        output: Its output; None where it is not one tensor.
    """

    inputs: Tensor
    codes: Tensor | None
    output: Tensor | None = None


def local_agreement(deployed: Deployed, calls: Mapping[str, Sequence[Any]]) -> dict[str, Agreement]:
    """What every quantized layer of the graphs computes by itself.

    Args:
        deployed: What is looked into.
        calls: Arguments of each part, by path.
    """
    plan = deployed.plan
    agreements: dict[str, list[Agreement]] = {}
    for part in deployed.parts:
        module = plan.model.get_submodule(part.path)
        engines: dict[str, Any] = {}
        used_again = len(calls[part.path]) > 1
        for args, kwargs in calls[part.path]:
            made, untried = trials(plan, part.qdq, simulate_and_record(plan, module, args, kwargs))
            for name, reason in untried.items():
                agreements.setdefault(name, []).append(Agreement(reason=reason))
            for trial in made:
                agreements.setdefault(trial.layer.name, []).append(_tried(deployed, part, trial, engines))
                if not used_again:
                    engines.clear()
    return {name: _together(several) for name, several in agreements.items()}


def _tried(deployed: Deployed, part: DeployedPart, trial: LayerTrial, engines: dict[str, Any]) -> Agreement:
    name, wanted = node_name(trial.layer, trial.call), trial.wanted.cpu()
    key = f"{name} {tuple(trial.inputs.shape)}"
    try:
        engine = engines.get(key) or deployed.build(trial.graph, part.part)
        computed = torch.as_tensor(engine.run(trial.inputs.cpu().numpy())[0])
    except EngineError as error:
        return Agreement(reason=f"{name} cannot be run by itself: {error}")
    if trial.lasts:
        engines[key] = engine
    if computed.numel() != wanted.numel():
        shapes = f"returns {tuple(computed.shape)} by itself where the simulation has {tuple(wanted.shape)}"
        return Agreement(reason=f"{name} {shapes}: the graph does more than the layer between input and output")
    if wanted.is_floating_point():
        return Agreement(sqnr_db=sqnr_db(wanted, computed.reshape(wanted.shape)))
    return Agreement(compare_codes(computed, wanted))


def _together(several: Sequence[Agreement]) -> Agreement:
    measured = [agreement.sqnr_db for agreement in several if agreement.sqnr_db is not None]
    reasons = dict.fromkeys(agreement.reason for agreement in several if agreement.reason)
    return Agreement(
        merged([agreement.counts for agreement in several]), min(measured, default=None), "; ".join(reasons)
    )


def simulate_and_record(
    plan: Plan, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, SimulatedCall]:
    """Run the simulation once and keep what every quantized layer reads and writes.

    Args:
        plan: What is quantized.
        module: Submodule of the plan's model that is run.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        By node name.
    """
    seen: dict[str, SimulatedCall] = {}

    def watch(layer: Layer, call: int, place: str, tensor: Tensor) -> None:
        name = node_name(layer, call)
        if place == "output":
            seen[name].output = tensor.detach().clone()
            return
        params = plan.input_params(layer, call)
        codes = None if params is None else quantize(tensor.detach(), params, rounding="onnx")
        seen[name] = SimulatedCall(tensor.detach().clone(), codes)

    with plan.simulated(watch=watch):
        module(*copied(args), **copied(kwargs))
    return seen


def trials(plan: Plan, qdq: QdqGraph, seen: Mapping[str, SimulatedCall]) -> tuple[Iterator[LayerTrial], dict[str, str]]:
    """Every quantized call of a graph cut out, with the activation and the quantizer behind it.

    Where something else stands between (an add, a pooling, the output), the layer's own output is quantized by its
    largest absolute value. Where a layer is quantized only in part, its own output is compared in float.

    Args:
        plan: What is quantized.
        qdq: The graph.
        seen: What the simulation had there.

    Returns:
        The trials, each made when it is asked for, and the layers that cannot be tried, with the reason.
    """
    finder = Finder(qdq)
    calls: list[tuple[Layer, int]] = []
    untried: dict[str, str] = {}
    for layer in plan.quantized:
        for call in range(layer.calls if layer.name in qdq.nodes else 0):
            if reason := _untriable(plan, layer, call, seen.get(node_name(layer, call))):
                untried[layer.name] = reason
            else:
                calls.append((layer, call))
    return (_trial(plan, finder, layer, call, seen) for layer, call in calls), untried


def _untriable(plan: Plan, layer: Layer, call: int, call_seen: SimulatedCall | None) -> str:
    if call_seen is None:
        return f"{node_name(layer, call)} did not run on the samples compared"
    if call_seen.output is None:
        kind = type(plan.model.get_submodule(layer.module)).__name__
        return f"{layer.weight} of a {kind} is one of several steps: what it alone computes is not to be seen"
    if not call_seen.output.numel():
        return f"{node_name(layer, call)} had nothing to compute on the samples compared"
    return ""


def _trial(plan: Plan, finder: Finder, layer: Layer, call: int, seen: Mapping[str, SimulatedCall]) -> LayerTrial:
    name, params = node_name(layer, call), plan.input_params(layer, call)
    seen_call = seen[name]
    assert seen_call.output is not None
    inputs = seen_call.inputs if params is None or seen_call.codes is None else dequantize(seen_call.codes, params)
    output, end, has_bias = seen_call.output, finder.end_of(name), layer.runs_in is None
    if not has_bias:
        inputs, output = _as_the_graph_multiplies(plan, finder, layer, call, replace(seen_call, inputs=inputs))
        end = finder.product_of(name)
    shape = tuple(inputs.shape)
    if params is None or plan.weight_codes(layer) is None:
        return LayerTrial(layer, call, finder.cut(name, end, shape, with_bias=has_bias), inputs, output)
    behind = finder.quantizer_behind(name) if has_bias or layer.conv_type != "Linear" else None
    after = None if behind is None else codes_in_the_graph(plan, finder, behind[1], seen.get(behind[1]))
    if behind is not None and after is not None:
        return LayerTrial(layer, call, finder.cut(name, behind[0], shape), inputs, after)
    own = _own_params(output)
    codes = quantize(output, own, rounding="onnx")
    return LayerTrial(layer, call, finder.cut(name, end, shape, own, with_bias=has_bias), inputs, codes, lasts=False)


def codes_in_the_graph(plan: Plan, finder: Finder, node: str, seen_call: SimulatedCall | None) -> Tensor | None:
    """The simulation's codes in front of a node, in the arrangement that they have in the graph; None without any.

    Args:
        plan: What is quantized.
        finder: Of the graph.
        node: That of one call of a layer.
        seen_call: What the simulation had there.
    """
    if seen_call is None or seen_call.codes is None or seen_call.output is None:
        return None if seen_call is None else seen_call.codes
    met = [layer for layer in plan.quantized if layer.runs_in is not None]
    calls = {node_name(layer, call): (layer, call) for layer in met for call in range(layer.calls)}
    if node not in calls:
        return seen_call.codes
    return _as_the_graph_multiplies(plan, finder, *calls[node], replace(seen_call, inputs=seen_call.codes))[0]


def _as_the_graph_multiplies(
    plan: Plan, finder: Finder, layer: Layer, call: int, seen_call: SimulatedCall
) -> tuple[Tensor, Tensor]:
    """Input and product of a layer that is met at its operator, in the arrangement that its node has.

    torch multiplies a matrix from either side; the graph may have it on the other one.
    """
    inputs = seen_call.inputs
    assert seen_call.output is not None
    name = node_name(layer, call)
    multiplied = plan.basis.multiplied[layer.name][call]
    if layer.conv_type != "Linear" or multiplied.weight.dim() != _MATRIX:
        return inputs, seen_call.output
    torch_side = int(multiplied.axis == 1)
    pair = inputs, seen_call.output
    if inputs.dim() == 1:
        pair = (inputs[None], seen_call.output[None]) if torch_side else (inputs[:, None], seen_call.output[:, None])
    if finder.side_of(name) != torch_side:
        pair = pair[0].transpose(-1, -2), pair[1].transpose(-1, -2)
    if finder.takes_matrices_alone(name):
        pair = pair[0].flatten(0, -2), pair[1].flatten(0, -2)
    return pair


def _own_params(output: Tensor) -> QuantParams:
    largest = output.abs().max().double()
    return params_from_range(-largest, largest, QuantSpec("int8"))


def merged(counts: Sequence[Counts]) -> Counts:
    """Codes compared, codes that differ and the largest difference over several comparisons."""
    return (
        sum(part[0] for part in counts),
        sum(part[1] for part in counts),
        max((part[2] for part in counts), default=0),
    )


def compare_codes(engine_codes: Any, codes: Tensor) -> Counts:
    """Codes compared, codes that differ, and the largest difference in steps.

    Args:
        engine_codes: As many as ``codes``.
        codes: The simulation's.
    """
    computed = torch.as_tensor(engine_codes).reshape(codes.shape)
    difference = (computed.to(torch.int64) - codes.to(torch.int64)).abs()
    return difference.numel(), int((difference > 0).sum()), int(difference.max()) if difference.numel() else 0
