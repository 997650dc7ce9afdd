"""How long an engine takes for each layer, quantized and in float: what a latency budget is spent on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from sensitivity.errors import StudyError
from sensitivity.records.recipes.recipe import Recipe
from sensitivity.records.results.study import StudyRecord
from sensitivity.records.results.times import Changes, Circumstances, Pair, Times

if TYPE_CHECKING:
    import pandas as pd

AnyStudy = TypeVar("AnyStudy", bound=StudyRecord)
_NOT_MEASURED: Pair = (float("nan"), float("nan"))
_NO_CHANGE: Changes = (0, 0.0)
_SHOWN = 5  # layers in a line


@dataclass(frozen=True, slots=True)
class Latency:
    """Measured times of one model on one engine, for its example inputs, in seconds; print it for a summary.

    Attributes:
        model: Name of the model.
        recipe: What the quantized layers had.
        engine: Name of the engine.
        quantized_s: Median time of the whole graph with every layer quantized.
        float_s: The same with none.
        layers: For each layer the time quantized, and the time in float. A fused operation's time is shared by its
            layers; what quantizing costs between layers is in ``quantized_s`` alone.
        circumstances: How they were measured, with spread and changes of format; None where nobody told.
    """

    model: str
    recipe: Recipe
    engine: str
    quantized_s: float
    float_s: float
    layers: Mapping[str, Pair]
    circumstances: Circumstances | None = None

    def extra_s(self, layer: str) -> float:
        """Seconds that protecting a layer costs, changes of format included where they were measured.

        Below zero only where the engine is faster with this layer in float by more than the spread between rounds: a
        gain within that is no gain, and counts as 0.
        """
        measured = self._measured_extra_s(layer)
        return max(measured, 0.0) if self._is_undetermined(layer) else measured

    def extra_at_most_s(self, layer: str) -> float:
        """What protecting a layer may cost, for decisions: ``extra_s``, and the spread where the runs tell nothing.

        So a layer whose cost is lost in noise is not taken for a free one. One round has no spread; its numbers count
        as a cost, whatever their sign.
        """
        measured, spread = self._measured_extra_s(layer), self._extra_spread_s(layer)
        if not self._is_undetermined(layer):
            return measured
        return abs(measured) if spread is None else spread

    @property
    def undetermined(self) -> tuple[str, ...]:
        """Layers of which these runs do not tell whether protecting them costs time: it is within the spread."""
        return tuple(name for name in self.layers if self._is_undetermined(name))

    def _measured_extra_s(self, layer: str) -> float:
        if self.circumstances is not None and layer in self.circumstances.protecting_s:
            return self.circumstances.protecting_s[layer]
        quantized, in_float = self.layers.get(layer, (0.0, 0.0))
        return in_float - quantized

    def _extra_spread_s(self, layer: str) -> float | None:
        """How far ``_measured_extra_s`` differs between rounds; None for one round, 0 where nobody told."""
        known = self.circumstances
        if known is None:
            return 0.0
        if not _has_spread(known):
            return None
        return known.protecting_spread_s.get(layer, sum(known.layer_spread_s.get(layer, (0.0, 0.0))))

    def _is_undetermined(self, layer: str) -> bool:
        spread = self._extra_spread_s(layer)
        return spread is None or (spread > 0.0 and abs(self._measured_extra_s(layer)) <= spread)

    @property
    def speedup(self) -> float:
        """Time in float over time quantized."""
        return self.float_s / self.quantized_s

    @property
    def is_told_apart(self) -> bool:
        """Whether the two times lie further apart than the larger of their interquartile ranges; one round has none."""
        known = self.circumstances
        return known is None or (_has_spread(known) and abs(self.float_s - self.quantized_s) > max(known.spread_s))

    @property
    def dear(self) -> tuple[str, ...]:
        """Layers that take no longer in float, and whose protection costs time all the same: by changes of format.

        What their spreads explain is left out; one round has no spread, and names none.
        """
        known = self.circumstances
        if known is None or not _has_spread(known):
            return ()
        return tuple(
            name
            for name, (quantized, in_float) in self.layers.items()
            if in_float <= quantized
            and name in known.protected_changes
            and not self._is_undetermined(name)
            and self.extra_s(name) > 0.0
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each layer, in milliseconds: times, spreads, changes of format, and what protecting it adds.

        ``protecting_undetermined`` says that ``protecting_ms`` is within its spread, so that it may be 0.
        """
        import pandas as pd

        return pd.DataFrame([self._row(name) for name in self.layers]).set_index("name")

    def _row(self, name: str) -> dict[str, Any]:
        quantized, in_float = self.layers[name]
        known, spread = self.circumstances, self._extra_spread_s(name)
        spreads = _NOT_MEASURED
        if known is not None and _has_spread(known):
            spreads = known.layer_spread_s.get(name, _NOT_MEASURED)
        changes = _NO_CHANGE if known is None else known.changes.get(name, _NO_CHANGE)
        protected = _NO_CHANGE if known is None else known.protected_changes.get(name, _NO_CHANGE)
        return {
            "name": name,
            "quantized_ms": 1e3 * quantized,
            "quantized_spread_ms": 1e3 * spreads[0],
            "float_ms": 1e3 * in_float,
            "float_spread_ms": 1e3 * spreads[1],
            "changes": changes[0],
            "changes_ms": 1e3 * changes[1],
            "protected_changes": protected[0],
            "protected_changes_ms": 1e3 * protected[1],
            "protecting_ms": 1e3 * self.extra_s(name),
            "protecting_spread_ms": _NOT_MEASURED[0] if known is None or spread is None else 1e3 * spread,
            "protecting_undetermined": self._is_undetermined(name),
        }

    def __str__(self) -> str:
        known = self.circumstances
        spreads = ["", ""]
        if known is not None and _has_spread(known):
            spreads = [f" (spread {1e3 * each:.2g})" for each in known.spread_s]
        text = (
            f"{self.model} on {self.engine}: {1e3 * self.quantized_s:.3g} ms{spreads[0]} in {self.recipe.name}, "
            f"{1e3 * self.float_s:.3g} ms{spreads[1]} in float: {self._comparison()}."
        )
        return "\n".join([text, *([] if known is None else _described(known)), *self._dear(), *self._unsure()])

    def _comparison(self) -> str:
        if not self.is_told_apart:
            return "these runs do not tell which of the two is faster"
        if self.speedup >= 1.0:
            return f"int8 is {self.speedup:.2f} times as fast"
        return f"int8 is slower than float here, it takes {1.0 / self.speedup:.2f} times as long"

    def _dear(self) -> list[str]:
        dear = self.dear
        if not dear:
            return []
        return [f"No slower in float, and dear to protect for changes of format: {_first(dear)}."]

    def _unsure(self) -> list[str]:
        known, unsure = self.circumstances, self.undetermined
        if known is None or not unsure or not _has_spread(known):
            return []
        return [
            f"For {len(unsure)} of {len(self.layers)} layers these runs do not tell whether protecting them costs "
            f"time: {_first(unsure)}. They count with their spread where a latency is spent."
        ]


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _has_spread(known: Circumstances) -> bool:
    """Whether there are several rounds, between which times can differ."""
    return known.rounds > 1


def _described(known: Circumstances) -> list[str]:
    threads = "as many threads as the engine takes" if known.threads is None else f"threads: {known.threads}"
    held = f"held to CPU {', '.join(map(str, known.cpus))}" if known.cpus else "not held to a CPU"
    quantized, in_float = (f"{count} ({1e3 * seconds:.2g} ms)" for count, seconds in known.graph_changes)
    rounds = f"{known.rounds} rounds" if _has_spread(known) else "one round"
    spread = "Spreads are interquartile ranges between rounds." if _has_spread(known) else "One round has no spread."
    return [
        f"Medians of {rounds} by turns, {known.runs} runs of each after a warm-up; {threads}, {held}. {spread}",
        f"Operations that only change the format of a tensor: {quantized} in int8, {in_float} in float.",
    ]


def with_latency(study: AnyStudy, latency: Latency) -> AnyStudy:
    """The same study with the times of one of its recipes.

    Raises:
        StudyError: If the study has no such recipe, or the times are of other layers.
    """
    name = next((key for key, recipe in study.recipes.items() if recipe.digest == latency.recipe.digest), None)
    if name is None:
        raise StudyError(
            f"the times are of recipe {latency.recipe.name!r}, which does something else than this study's: "
            f"{', '.join(study.recipes)}. Measure a recipe of the study."
        )
    check_layers(latency, [layer.name for layer in study.layers], "this study")
    times = Times(latency.engine, latency.quantized_s, latency.float_s, latency.layers, latency.circumstances)
    return replace(study, info=replace(study.info, latency={**(study.info.latency or {}), name: times}))


def check_layers(latency: Latency, names: Collection[str], owner: str) -> None:
    """Refuse times of other layers.

    Args:
        latency: The times.
        names: The layers that are known.
        owner: Who has these, for the message.

    Raises:
        StudyError: If a layer with a time is not known.
    """
    strangers = sorted(set(latency.layers) - set(names))
    if strangers:
        raise StudyError(f"times of layers that {owner} does not have: {', '.join(strangers[:3])}. Other model?")


def latency_of(study: StudyRecord, recipe: str) -> Latency | None:
    """The times that ``with_latency`` added for a recipe, or None."""
    times = (study.info.latency or {}).get(recipe)
    if times is None:
        return None
    pairs = dict(times.layers)
    of = (study.model, study.recipes[recipe], times.engine)
    return Latency(*of, times.quantized_s, times.float_s, pairs, times.circumstances)
