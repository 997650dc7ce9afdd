"""One layer inside the whole graph: an engine may run it otherwise there than by itself.

The graph is built once more with every tensor of codes as an output. A layer is judged where the engine's codes at its
input are the simulated ones: then its output codes should be, too. Behind layers that differ nothing can be told.

Looking changes what runs: on a CPU without VNNI, OpenVINO halves the weights that meet codes which are an output, and
no others (its convolutions of signed codes would saturate else). So where codes differ, the graph is built again with
the numbers that the codes stand for as outputs, which leaves the kernels as they are deployed, and that graph
decides. The two graphs may round a tie at the input differently: a layer whose input codes differ there in a few places
is judged by the output codes that these places cannot reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor

from sensitivity.contracts import Engine
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engine_module import DeployedPart
from sensitivity.deploy.graph.cut import Finder
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.deploy.verify.integer import codes_of, verify_graph
from sensitivity.deploy.verify.layer_alone import Counts, codes_in_the_graph, compare_codes, merged, simulate_and_record
from sensitivity.errors import EngineError
from sensitivity.records import Layer

SAME_SHARE = 1e-2
"""Input codes that differ by no more than this, by one step, count as the same for a rough judgement."""

ROUGH_SHARE, ROUGH_STEPS = 0.05, 4
"""A layer whose input codes are nearly the same is wrong where more of its output codes differ, by more steps."""

_REPEATS = 4
"""How often padding in two dimensions can repeat a number, in front of a layer and behind it."""


@dataclass(frozen=True, slots=True)
class InsideGraphs:
    """What the layers compute inside the whole graphs.

    Attributes:
        counts: For each layer that can be judged: output codes compared, codes that differ, largest difference.
        unseen: For each part of which the engine runs no such graph: its path, and the engine's error.
    """

    counts: Mapping[str, Counts]
    unseen: Mapping[str, str] = field(default_factory=dict)


def inside_graph(deployed: Deployed, calls: Mapping[str, Sequence[Any]]) -> InsideGraphs:
    """Compare the codes behind each layer inside the whole graph.

    An engine that builds the deployed graph may refuse the one with further outputs; then the graph that returns the
    numbers decides alone, and where it is refused, too, the part is named with the reason.

    Args:
        deployed: What is looked into.
        calls: Arguments of each part, by path.
    """
    by_codes = _judged_of(deployed, calls, by_values=False)
    equal = {layer: counts for layer, counts in by_codes.counts.items() if counts[1] == 0}
    if len(equal) == len(by_codes.counts) and not by_codes.unseen:
        return by_codes
    by_values = _judged_of(deployed, calls, by_values=True)
    unseen = {path: error for path, error in by_values.unseen.items() if path in by_codes.unseen}
    return InsideGraphs({**by_codes.counts, **by_values.counts, **equal}, unseen)


def _judged_of(deployed: Deployed, calls: Mapping[str, Sequence[Any]], *, by_values: bool) -> InsideGraphs:
    counts_of: dict[str, list[Counts]] = {}
    unseen: dict[str, str] = {}
    for part in deployed.parts:
        graph, readers = verify_graph(part.qdq, values=by_values)
        if not readers:
            continue
        try:
            engine = deployed.build(graph, part.part)
            for args, kwargs in calls[part.path]:
                for layer, counts in _judged_on(deployed, part, engine, readers, (args, kwargs), by_values=by_values):
                    counts_of.setdefault(layer, []).append(counts)
        except EngineError as error:
            unseen[part.path] = str(error)
    return InsideGraphs({name: merged(several) for name, several in counts_of.items()}, unseen)


def _judged_on(
    deployed: Deployed, part: DeployedPart, engine: Engine, readers: Sequence[str], call: Any, *, by_values: bool
) -> list[tuple[str, Counts]]:
    """The layers of a part, judged on one call."""
    args, kwargs = call
    tensors = part.part.signature.inputs.tensors_of((args, kwargs), part.path or "the model")
    outputs = engine.run(*[tensor.cpu().numpy() for tensor in tensors])[-len(readers) :]
    seen = simulate_and_record(deployed.plan, deployed.plan.model.get_submodule(part.path), args, kwargs)
    codes: dict[str, Counts] = {}
    finder = Finder(part.qdq)
    for name, output in zip(readers, outputs, strict=True):
        computed = codes_of(part.qdq, name, output) if by_values else output
        if (counts := _compared(computed, codes_in_the_graph(deployed.plan, finder, name, seen.get(name)))) is not None:
            codes[part.qdq.quantizers[name]] = counts
    return _judged(part, codes, deployed.plan, by_values=by_values)


def _compared(output: Any, simulated: Tensor | None) -> Counts | None:
    """None where the simulation has no such codes, or another number of them: what is kept depends on the data."""
    if simulated is None or simulated.numel() != output.size:
        return None
    return compare_codes(output, simulated.cpu())


def _judged(
    part: DeployedPart, codes: Mapping[str, Counts], plan: Plan, *, by_values: bool
) -> list[tuple[str, Counts]]:
    finder = Finder(part.qdq)
    judged = []
    for name, nodes in part.qdq.nodes.items():
        for node in nodes:
            behind = finder.quantizer_behind(node) if node in part.qdq.quantizers else None
            before = codes.get(part.qdq.quantizers.get(node, ""))
            after = codes.get(behind[0]) if behind is not None else None
            if before is None or after is None:
                continue
            if before[1] == 0 or (_nearly_same(before) and _is_wrong(before, after, _reach(plan.layers[name]))):
                judged.append((name, after))
            elif by_values and _nearly_same(before):
                judged.append((name, (after[0], 0, 0)))  # the input codes that differ explain all
    return judged


def _nearly_same(before: Counts) -> bool:
    compared, different, steps = before
    return different <= SAME_SHARE * compared and steps <= 1


def _is_wrong(before: Counts, after: Counts, reach: int) -> bool:
    """Whether output codes differ in a way that the few input codes which differ do not explain."""
    compared, different, steps = after
    roughly = different > ROUGH_SHARE * compared and steps > ROUGH_STEPS
    return roughly or (different > before[1] * reach and steps > 1)


def _reach(layer: Layer) -> int:
    """The most output codes that one input code can change."""
    return prod(layer.kernel_size) * layer.out_channels * _REPEATS
