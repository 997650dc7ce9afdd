"""One layer inside the whole graph: an engine may run it otherwise there than by itself.

The graph is built once more with every tensor of codes as an output. A layer is judged where the engine's codes at its
input are the simulated ones: then its output codes should be, too. Behind layers that differ nothing can be told.

Looking changes what runs: on a CPU without VNNI, OpenVINO halves the weights that meet codes which are an output, and
no others. So where codes differ, the graph is built again with the numbers that the codes stand for as outputs, which
leaves the kernels as they are deployed, and that graph decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sensitivity.deploy.deployed import Deployed, DeployedPart
from sensitivity.deploy.graph.cut import Finder
from sensitivity.deploy.verify.integer import codes_of, verify_graph
from sensitivity.deploy.verify.layer_alone import Counts, Seen, compare, merged, simulate_and_record

SAME_SHARE = 1e-2
"""Input codes that differ by no more than this, by one step, count as the same for a rough judgement."""

ROUGH_SHARE, ROUGH_STEPS = 0.05, 4
"""A layer whose input codes are nearly the same is wrong where more of its output codes differ, by more steps."""


def inside_graph(deployed: Deployed, calls: Mapping[str, Sequence[Any]]) -> dict[str, Counts]:
    """For each layer that can be judged: output codes compared, codes that differ, largest difference.

    Args:
        deployed: What is looked into.
        calls: Arguments of each part, by path.
    """
    by_codes = _judged_of(deployed, calls, by_values=False)
    equal = {layer: counts for layer, counts in by_codes.items() if counts[1] == 0}
    if len(equal) == len(by_codes):
        return by_codes
    return by_codes | _judged_of(deployed, calls, by_values=True) | equal


def _judged_of(deployed: Deployed, calls: Mapping[str, Sequence[Any]], *, by_values: bool) -> dict[str, Counts]:
    counts_of: dict[str, list[Counts]] = {}
    for part in deployed.parts:
        graph, readers = verify_graph(part.qdq, values=by_values)
        if not readers:
            continue
        engine = deployed.build(graph, part.part)
        for args, kwargs in calls[part.path]:
            tensors = part.part.signature.inputs.tensors_of((args, kwargs), part.path or "the model")
            outputs = engine.run(*[tensor.cpu().numpy() for tensor in tensors])[-len(readers) :]
            if by_values:
                outputs = tuple(codes_of(part.qdq, *named) for named in zip(readers, outputs, strict=True))
            seen = simulate_and_record(deployed.plan, deployed.plan.model.get_submodule(part.path), args, kwargs)
            compared = {name: _compared(output, seen.get(name)) for name, output in zip(readers, outputs, strict=True)}
            codes = {part.qdq.quantizers[name]: counts for name, counts in compared.items() if counts is not None}
            for layer, counts in _judged(part, codes):
                counts_of.setdefault(layer, []).append(counts)
    return {name: merged(several) for name, several in counts_of.items()}


def _compared(output: Any, seen: Seen | None) -> Counts | None:
    """None where the simulation has no such codes, or another number of them: what is kept depends on the data."""
    if seen is None or seen.codes is None or seen.codes.numel() != output.size:
        return None
    return compare(output, seen.codes.cpu())


def _judged(part: DeployedPart, codes: Mapping[str, Counts]) -> list[tuple[str, Counts]]:
    finder = Finder(part.qdq)
    judged = []
    for layer, nodes in part.qdq.nodes.items():
        for node in nodes:
            behind = finder.quantizer_behind(node) if node in part.qdq.quantizers else None
            before = codes.get(part.qdq.quantizers.get(node, ""))
            after = codes.get(behind[0]) if behind is not None else None
            if before is None or after is None:
                continue
            exact = before[1] == 0
            rough = before[1] <= SAME_SHARE * before[0] and before[2] <= 1
            wrong = after[1] > ROUGH_SHARE * after[0] and after[2] > ROUGH_STEPS
            if exact or (rough and wrong):
                judged.append((layer, after))
    return judged
