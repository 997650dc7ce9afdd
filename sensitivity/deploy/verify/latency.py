"""Times of every layer on an engine, quantized, in float, and protected alone, with what changes of format take."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sensitivity.contracts import Engine
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.executed import ExecutedPart, run_profiled
from sensitivity.deploy.verify.cpu_affinity import held_to_cpus
from sensitivity.deploy.verify.timing import ROUNDS, RUNS_A_ROUND, Timing, engines_with, run_s
from sensitivity.errors import EngineError
from sensitivity.records import Recipe
from sensitivity.records.results.latency import Latency
from sensitivity.records.results.times import Changes, Circumstances

PROFILED_RUNS_A_ROUND = 5
INTERLEAVED = 3
"""Protected layers are measured this many apart, so that both neighbours are quantized: in so many graphs."""


@dataclass(frozen=True)
class _Profile:
    """What one round tells of one graph."""

    seconds: Mapping[str, float]
    changes: Mapping[str, Changes]
    all_changes: Changes
    readers: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, parts: Iterable[ExecutedPart]) -> _Profile:
        seconds: dict[str, float] = defaultdict(float)
        changes: dict[str, Changes] = {}
        readers: dict[str, frozenset[str]] = {}
        totals = [(0, 0.0)]
        for part in parts:
            for layer, own in part.seconds().items():
                seconds[layer] += own
            for layer, change in part.changes().items():
                changes[layer] = _sum([changes.get(layer, (0, 0.0)), change])
            for layer, layers in part.readers().items():
                readers[layer] = readers.get(layer, frozenset()) | layers
            totals.append(part.all_changes())
        return cls(seconds, changes, _sum(totals), readers)


@dataclass(frozen=True)
class _Variant:
    """One graph that is timed: its engines, and what each round told."""

    quantized: frozenset[str]
    engines: Sequence[Engine]
    profiles: list[_Profile] = field(default_factory=list)

    def profile(self, deployed: Deployed) -> None:
        """Time every layer once more."""
        executed = [
            run_profiled(
                engine,
                [tensor.cpu().numpy() for tensor in part.part.example],
                part.qdq.nodes,
                repeats=PROFILED_RUNS_A_ROUND,
            )
            for part, engine in zip(deployed.parts, self.engines, strict=True)
        ]
        self.profiles.append(_Profile.of(executed))

    def timing(self, layer: str) -> Timing:
        """One layer's own time."""
        return Timing.of([profile.seconds.get(layer, 0.0) for profile in self.profiles])

    def changes(self, layers: Iterable[str]) -> Changes:
        """Changes of format in front of some layers."""
        names = list(layers)
        each = [_sum(profile.changes.get(name, (0, 0.0)) for name in names) for profile in self.profiles]
        return each[0][0], statistics.median(seconds for _, seconds in each)

    def seconds_with_changes(self, layer: str, around: Iterable[str]) -> list[float]:
        """In every round one layer's own time, and what changes of format in front of some layers take."""
        names = list(around)
        return [
            profile.seconds.get(layer, 0.0) + sum(profile.changes.get(name, (0, 0.0))[1] for name in names)
            for profile in self.profiles
        ]

    def all_changes(self) -> Changes:
        """Changes of format in the whole graph."""
        return self.profiles[0].all_changes[0], statistics.median(each.all_changes[1] for each in self.profiles)


def measure_latency(deployed: Deployed, recipe: Recipe, *, rounds: int = ROUNDS, threads: int | None = None) -> Latency:
    """Time a model by turns with every layer quantized, with none, and with each one protected.

    What protecting a layer costs is read from graphs in which every third layer is in float: each protected layer then
    stands between quantized ones, as if it were protected alone, as long as layers follow each other.

    Args:
        deployed: The model with every layer quantized; engines like its own are built of its graphs.
        recipe: What the quantized layers have.
        rounds: Measurements of each; medians are taken.
        threads: CPUs that the process is held to meanwhile; None holds it to nothing.

    Raises:
        EngineError: If the engine does not tell the time of single layers, or rounds is not positive.
    """
    if rounds < 1:
        raise EngineError(f"rounds={rounds}: give 1 or more.")
    names = [layer.name for layer in deployed.plan.quantized]
    with held_to_cpus(threads) as cpus:
        variants = _variants(deployed, names)
        wholes = _timed_by_turns(deployed, variants, rounds)
    quantized, in_float = wholes
    table = deployed.plan.layers
    timings = {layer.name: [variant.timing(layer.name) for variant in variants[:2]] for layer in table}
    changes = {layer.name: variants[0].changes([layer.name]) for layer in table}
    return Latency(
        *(table.model, recipe, deployed.name, quantized.median_s, in_float.median_s),
        {name: (own.median_s, own_float.median_s) for name, (own, own_float) in timings.items()},
        Circumstances(
            rounds=rounds,
            runs=rounds * RUNS_A_ROUND,
            threads=threads,
            cpus=cpus,
            spread_s=(quantized.spread_s, in_float.spread_s),
            layer_spread_s={name: (own.spread_s, own_float.spread_s) for name, (own, own_float) in timings.items()},
            graph_changes=(variants[0].all_changes(), variants[1].all_changes()),
            changes={name: change for name, change in changes.items() if change[0]},
            **_protecting(names, variants),
        ),
    )


def _variants(deployed: Deployed, names: Sequence[str]) -> list[_Variant]:
    """The graph with every layer quantized, with none, and those in which every third one is in float."""
    floats = [
        set[str](),
        set(names),
        *(set(names[first::INTERLEAVED]) for first in range(min(INTERLEAVED, len(names)))),
    ]
    schemes = [[name for name in names if name not in in_float] for in_float in floats]
    return [_Variant(frozenset(quantized), engines_with(deployed, quantized)) for quantized in schemes]


def _timed_by_turns(deployed: Deployed, variants: Sequence[_Variant], rounds: int) -> list[Timing]:
    """Time the first two as a whole, and every layer of all of them, which keep what they are told."""
    wholes: list[list[float]] = [[], []]
    for _ in range(rounds):
        for variant, seconds in zip(variants[:2], wholes, strict=True):
            seconds.append(run_s(deployed, variant.engines, as_deployed=False))
        for variant in variants:
            variant.profile(deployed)
    return [Timing.of(seconds) for seconds in wholes]


def _protecting(names: Sequence[str], variants: Sequence[_Variant]) -> dict[str, dict[str, Any]]:
    """For each layer what protecting it adds in a round, and the changes of format around it then."""
    quantized, _, *thirds = variants
    extra: dict[str, Timing] = {}
    changes: dict[str, Changes] = {}
    for third in thirds:
        readers = third.profiles[0].readers
        for name in names:
            if name in third.quantized:
                continue
            around = [name, *sorted(readers.get(name, frozenset()) & third.quantized)]
            changes[name] = third.changes(around)
            in_float, in_integers = (graph.seconds_with_changes(name, around) for graph in (third, quantized))
            extra[name] = Timing.of([more - less for more, less in zip(in_float, in_integers, strict=True)])
    return {
        "protecting_s": {name: timing.median_s for name, timing in extra.items()},
        "protecting_spread_s": {name: timing.spread_s for name, timing in extra.items()},
        "protected_changes": changes,
    }


def _sum(changes: Iterable[Changes]) -> Changes:
    each = list(changes)
    return sum(count for count, _ in each), sum(seconds for _, seconds in each)
