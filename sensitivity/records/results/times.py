"""Measured times of one recipe on one engine, with how they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

Pair = tuple[float, float]
"""Something quantized, and the same in float."""

Changes = tuple[int, float]
"""A number of changes of format, and the seconds that they take together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How times were measured, and what was seen beside them; everything is a median over all rounds.

    Attributes:
        rounds: How often each graph was timed, by turns.
        runs: Runs of each whole graph that were timed in all.
        threads: Threads of the engine; None where that was left to it.
        cpus: CPUs that the process was held to; empty where it was not.
        spread_s: Interquartile range between rounds of the whole graph's time, quantized and in float.
        layer_spread_s: The same of each layer.
        protecting_s: What protecting a layer adds to the quantized graph: its own time in float between quantized
            neighbours, less its time quantized, and what changes of format around it take more.
        protecting_spread_s: Interquartile range of that between rounds.
        graph_changes: Changes of format in the whole graph, quantized and in float: operations of their own that turn
            int8 into float, float into int8, or the layout in memory.
        changes: Those in front of each layer, with every layer quantized.
        protected_changes: Those in front of each layer and of what reads it, where this layer is protected.
    """

    rounds: int
    runs: int
    threads: int | None
    cpus: tuple[int, ...]
    spread_s: Pair
    layer_spread_s: Mapping[str, Pair] = field(default_factory=dict)
    protecting_s: Mapping[str, float] = field(default_factory=dict)
    protecting_spread_s: Mapping[str, float] = field(default_factory=dict)
    graph_changes: tuple[Changes, Changes]
    changes: Mapping[str, Changes] = field(default_factory=dict)
    protected_changes: Mapping[str, Changes] = field(default_factory=dict)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The circumstances that ``StudyInfo.to_json`` described."""
        quantized, in_float = plain["graph_changes"]
        return cls(
            rounds=int(plain["rounds"]),
            runs=int(plain["runs"]),
            threads=None if plain["threads"] is None else int(plain["threads"]),
            cpus=tuple(int(cpu) for cpu in plain["cpus"]),
            spread_s=_pair(plain["spread_s"]),
            layer_spread_s={name: _pair(spreads) for name, spreads in plain["layer_spread_s"].items()},
            protecting_s={name: float(seconds) for name, seconds in plain["protecting_s"].items()},
            protecting_spread_s={name: float(spread) for name, spread in plain.get("protecting_spread_s", {}).items()},
            graph_changes=(_change(quantized), _change(in_float)),
            changes={name: _change(change) for name, change in plain["changes"].items()},
            protected_changes={name: _change(change) for name, change in plain["protected_changes"].items()},
        )


@dataclass(frozen=True, slots=True)
class Times:
    """Measured times of one recipe on one engine, in seconds; ``records.results.latency`` says what they are of.

    Attributes:
        engine: Name of the engine.
        quantized_s: Time of the whole graph with every layer quantized.
        float_s: The same with none.
        layers: For each layer the time quantized, and the time in float.
        circumstances: How they were measured; None where nobody told, as in files of older versions.
    """

    engine: str
    quantized_s: float
    float_s: float
    layers: Mapping[str, Pair]
    circumstances: Circumstances | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into equal times."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The times that ``StudyInfo.to_json`` described."""
        layers = {name: _pair(seconds) for name, seconds in plain["layers"].items()}
        circumstances = plain.get("circumstances")
        known = None if circumstances is None else Circumstances.from_json(circumstances)
        return cls(str(plain["engine"]), float(plain["quantized_s"]), float(plain["float_s"]), layers, known)


def _pair(values: Any) -> Pair:
    quantized, in_float = values
    return float(quantized), float(in_float)


def _change(values: Any) -> Changes:
    count, seconds = values
    return int(count), float(seconds)
