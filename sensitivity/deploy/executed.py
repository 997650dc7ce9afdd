"""What one part of a deployed model runs on its engine: operations, the layers that they compute, their times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sensitivity.contracts import Engine, EngineLayer, ProfilesLayers
from sensitivity.deploy.engines.registry import engine_names
from sensitivity.errors import EngineError
from sensitivity.records.results.times import Changes


@dataclass(frozen=True)
class ExecutedPart:
    """The operations of an engine after a profiled run.

    Attributes:
        engine: Name of the engine.
        operations: As the engine runs them.
        layer_of: Layer of each node of the graph that belongs to one.
    """

    engine: str
    operations: Sequence[EngineLayer]
    layer_of: Mapping[str, str]

    @cached_property
    def _layers(self) -> dict[str, tuple[str, ...]]:
        """The layers that each operation computes."""
        return {
            operation.name: tuple(
                dict.fromkeys(self.layer_of[node] for node in operation.nodes if node in self.layer_of)
            )
            for operation in self.operations
        }

    @cached_property
    def _readers(self) -> dict[str, list[str]]:
        """The operations that read each operation."""
        readers: dict[str, list[str]] = defaultdict(list)
        for operation in self.operations:
            for source in operation.reads:
                readers[source].append(operation.name)
        return readers

    def seconds(self) -> dict[str, float]:
        """Seconds of each layer; an operation that runs several counts for each of them in equal shares.

        Raises:
            EngineError: If the engine does not tell the time of single layers.
        """
        seconds: dict[str, float] = defaultdict(float)
        for operation in self.operations:
            layers = () if operation.changes is not None else self._layers[operation.name]
            if layers and operation.time_s is None:
                raise EngineError(
                    f"{self.engine} does not tell how long a layer takes. Measure on "
                    f"{' or '.join(map(repr, engine_names(timed=True)))}."
                )
            for layer in layers:
                seconds[layer] += (operation.time_s or 0.0) / len(layers)
        return dict(seconds)

    def changes(self) -> dict[str, Changes]:
        """Changes of format in front of each layer, with their seconds; one that several layers read is shared.

        Those that no layer reads belong to no layer.
        """
        counts: dict[str, int] = defaultdict(int)
        seconds: dict[str, float] = defaultdict(float)
        for operation in self._changing():
            layers = self._next_layers([operation.name])
            for layer in layers:
                counts[layer] += 1
                seconds[layer] += (operation.time_s or 0.0) / len(layers)
        return {layer: (count, seconds[layer]) for layer, count in counts.items()}

    def all_changes(self) -> Changes:
        """Changes of format in all."""
        changing = self._changing()
        return len(changing), sum(operation.time_s or 0.0 for operation in changing)

    def readers(self) -> dict[str, frozenset[str]]:
        """The layers that read what each layer writes, directly or through operations that are no layers."""
        own: dict[str, list[str]] = defaultdict(list)
        for name, layers in self._layers.items():
            for layer in layers:
                own[layer].append(name)
        return {layer: frozenset(self._next_layers(names)) - {layer} for layer, names in own.items()}

    def _changing(self) -> list[EngineLayer]:
        return [operation for operation in self.operations if operation.changes is not None]

    def _next_layers(self, names: Iterable[str]) -> set[str]:
        """The layers reached first from some operations along the data."""
        layers: set[str] = set()
        seen = set(names)
        waiting = [reader for name in seen for reader in self._readers[name]]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            computed = self._layers.get(name, ())
            layers |= set(computed)
            waiting += [] if computed else self._readers[name]
        return layers


def run_profiled(
    engine: Engine, arrays: Sequence[Any], nodes: Mapping[str, Iterable[str]], *, repeats: int
) -> ExecutedPart:
    """Run an engine and time its operations.

    Args:
        engine: What is run.
        arrays: Its inputs.
        nodes: Names of the graph's nodes of each layer.
        repeats: Runs that are timed, where the engine has a profiler of its own.

    Raises:
        EngineError: If the inputs are not what the engine was built for.
    """
    if isinstance(engine, ProfilesLayers):
        engine.profile(*arrays, repeats=repeats)
    else:
        engine.run(*arrays)
    layer_of = {node: layer for layer, own in nodes.items() for node in own}
    return ExecutedPart(engine.name, tuple(engine.layer_info()), layer_of)
