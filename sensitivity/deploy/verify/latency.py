"""Times on an engine, quantized and in float, measured by turns: of the whole model, and of every layer."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

from sensitivity.contracts import Engine
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.graph.qdq import insert_qdq
from sensitivity.errors import EngineError
from sensitivity.records import Recipe
from sensitivity.records.latency import Latency

ROUNDS = 5
RUNS_A_ROUND = 10


def by_turns(timers: Sequence[Callable[[], float]], *, rounds: int = ROUNDS) -> list[float]:
    """Median of each timer, all called in every round, so that a slow moment of the machine weighs on all.

    Args:
        timers: Each returns seconds.
        rounds: Times that each is called.
    """
    seconds = [[timer() for timer in timers] for _ in range(rounds)]
    return [statistics.median(several) for several in zip(*seconds, strict=True)]


def compare_with_float(deployed: Deployed) -> tuple[float, float | None]:
    """Seconds of one run of all parts: as deployed, and on the same engine with nothing quantized.

    Both are built with the same settings, threads among them, and timed by turns. The second is None where the engine
    is the simulation.

    Args:
        deployed: What is timed, on the inputs it was exported with.
    """
    nothing = deployed.plan.only([]).in_fp32()
    planned = [part.engine for part in deployed.parts]
    timers = [lambda: _run_s(deployed, planned, as_deployed=True)]
    if not is_simulation(deployed):
        graphs = [insert_qdq(part.part.graph, nothing).graph for part in deployed.parts]
        plain = [deployed.build(graph, part.part, nothing) for graph, part in zip(graphs, deployed.parts, strict=True)]
        timers.append(lambda: _run_s(deployed, plain, as_deployed=False))
    times = by_turns(timers)
    return times[0], times[1] if len(times) > 1 else None


def is_simulation(deployed: Deployed) -> bool:
    """Whether the engines are the simulation itself, which ignores the graph that it is given."""
    return all(engine.is_simulation for engine in deployed.engines)


def _run_s(deployed: Deployed, engines: Sequence[Engine], *, as_deployed: bool) -> float:
    seconds = 0.0
    for part, engine in zip(deployed.parts, engines, strict=True):
        plain = [tensor.cpu().numpy() for tensor in part.part.example]
        arrays = part.arrays_of(part.part.example) if as_deployed else plain
        seconds += engine.latency_s(*arrays, repeats=RUNS_A_ROUND)
    return seconds


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
            for layer, seconds in deployed.profile().items():
                times[layer].append(seconds)
    measured = [{layer: statistics.median(several) for layer, several in times.items()} for times in parts]
    table = quantized.plan.layers
    return Latency(
        table.model,
        recipe,
        quantized.name,
        statistics.median(whole[0]),
        statistics.median(whole[1]),
        {layer.name: (measured[0].get(layer.name, 0.0), measured[1].get(layer.name, 0.0)) for layer in table},
    )


def _whole_s(deployed: Deployed) -> float:
    seconds = 0.0
    for part in deployed.parts:
        seconds += part.engine.latency_s(*part.arrays_of(part.part.example))
    return seconds
