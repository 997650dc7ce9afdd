"""Times of every layer on an engine, quantized and in float, measured in turn."""

from __future__ import annotations

import statistics
from collections import defaultdict

from sensitivity.deploy.deployed import Deployed
from sensitivity.errors import EngineError
from sensitivity.records import Recipe
from sensitivity.records.latency import Latency

ROUNDS = 5


def measure_latency(quantized: Deployed, in_float: Deployed, recipe: Recipe, *, rounds: int = ROUNDS) -> Latency:
    """Time both by turns, so that a slow moment of the machine weighs on both.

    Args:
        quantized: The model with every layer quantized.
        in_float: The same on the same engine with none.
        recipe: What the quantized layers have.
        rounds: Profiles of each; medians are taken.

    Raises:
        EngineError: If the engine does not tell the time of single layers, or rounds is not positive.
    """
    if rounds < 1:
        raise EngineError(f"rounds={rounds}: give 1 or more.")
    whole: tuple[list[float], list[float]] = ([], [])
    parts: tuple[dict[str, list[float]], dict[str, list[float]]] = (defaultdict(list), defaultdict(list))
    for _ in range(rounds):
        for deployed, total, times in zip((quantized, in_float), whole, parts, strict=True):
            total.append(_whole_s(deployed))
            for layer, seconds in _layers_s(deployed).items():
                times[layer].append(seconds)
    measured = [{layer: statistics.median(several) for layer, several in times.items()} for times in parts]
    table = quantized.plan.layers
    return Latency(
        table.model,
        recipe,
        quantized.name,
        statistics.median(whole[0]),
        statistics.median(whole[1]),
        {one.name: (measured[0].get(one.name, 0.0), measured[1].get(one.name, 0.0)) for one in table},
    )


def _whole_s(deployed: Deployed) -> float:
    seconds = 0.0
    for one in deployed.parts:
        arrays = [tensor.cpu().numpy() for tensor in one.part.example]
        one.engine.run(*arrays)  # what layer_info() profiles
        seconds += one.engine.latency_s(*arrays)
    return seconds


def _layers_s(deployed: Deployed) -> dict[str, float]:
    """Seconds by layer; an operation that runs several layers counts for each of them in equal shares."""
    found: dict[str, float] = defaultdict(float)
    for one in deployed.parts:
        of_node = {node: layer for layer, nodes in one.qdq.nodes.items() for node in nodes}
        for operation in one.engine.layer_info():
            layers = {of_node[node] for node in operation.nodes if node in of_node}
            if layers and operation.time_s is None:
                raise EngineError(
                    f"{deployed.name} does not tell how long a layer takes. Measure on 'openvino' or 'tensorrt'."
                )
            for layer in layers:
                found[layer] += (operation.time_s or 0.0) / len(layers)
    return found
