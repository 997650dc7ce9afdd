"""Whole models timed on an engine by turns, as deployed and in float."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensitivity.contracts import Engine
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.graph.qdq import insert_qdq

ROUNDS = 5
RUNS_A_ROUND = 10


@dataclass(frozen=True, slots=True)
class Timing:
    """A time that was measured several times.

    Attributes:
        median_s: Seconds.
        spread_s: Interquartile range between rounds.
    """

    median_s: float
    spread_s: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Median and spread of several measurements."""
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (0.0, 0.0, 0.0)
        return cls(statistics.median(seconds), high - low)


def by_turns(timers: Sequence[Callable[[], float]], *, rounds: int = ROUNDS) -> list[Timing]:
    """Median and spread of each timer, all called in every round, so that a slow moment of the machine weighs on all.

    Args:
        timers: Each returns seconds.
        rounds: Times that each is called.
    """
    seconds = [[timer() for timer in timers] for _ in range(rounds)]
    return [Timing.of(several) for several in zip(*seconds, strict=True)]


def compare_with_float(deployed: Deployed) -> tuple[Timing, Timing | None]:
    """One run of all parts: as deployed, and on the same engine with nothing quantized.

    Both are built with the same settings, threads among them, and timed by turns. The second is None where the engine
    is the simulation.

    Args:
        deployed: What is timed, on the inputs it was exported with.
    """
    planned = [part.engine for part in deployed.parts]
    timers = [lambda: run_s(deployed, planned, as_deployed=True)]
    if not is_simulation(deployed):
        plain = engines_with(deployed, [])
        timers.append(lambda: run_s(deployed, plain, as_deployed=False))
    timings = by_turns(timers)
    return timings[0], timings[1] if len(timings) > 1 else None


def is_simulation(deployed: Deployed) -> bool:
    """Whether the engines are the simulation itself, which ignores the graph that it is given."""
    return all(engine.is_simulation for engine in deployed.engines)


def engines_with(deployed: Deployed, quantized: Sequence[str]) -> list[Engine]:
    """New engines of all parts, in fp32, with some layers quantized and no other.

    Args:
        deployed: Whose parts these are, and whose settings.
        quantized: Names of the layers.
    """
    plan = deployed.plan.only(quantized).in_fp32()
    graphs = [insert_qdq(part.part.graph, plan).graph for part in deployed.parts]
    return [deployed.build(graph, part.part, plan) for graph, part in zip(graphs, deployed.parts, strict=True)]


def run_s(deployed: Deployed, engines: Sequence[Engine], *, as_deployed: bool) -> float:
    """Median seconds of one run of all parts, after a warm-up, on the inputs that were exported.

    Args:
        deployed: Whose parts these are.
        engines: One for each part.
        as_deployed: Whether they take inputs as the deployed ones do, and not in fp32.
    """
    seconds = 0.0
    for part, engine in zip(deployed.parts, engines, strict=True):
        plain = [tensor.cpu().numpy() for tensor in part.part.example]
        arrays = part.arrays_of(part.part.example) if as_deployed else plain
        seconds += engine.latency_s(*arrays, repeats=RUNS_A_ROUND)
    return seconds
