"""Which layers to keep in high precision, and what that is predicted to cost and save."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import fsum, inf, isfinite, isnan, log10
from numbers import Integral, Real
from statistics import NormalDist
from typing import Literal

from sensitivity.advise.rank import ONE_AT_A_TIME, has_drop, stored_drop, worst_first
from sensitivity.advise.verdicts import verdicts
from sensitivity.errors import StudyError
from sensitivity.records import Measurement, Recipe, Scheme, StudyRecord
from sensitivity.records.results.latency import Latency, latency_of
from sensitivity.records.results.resampled import total_error
from sensitivity.records.results.study import RecipeLike
from sensitivity.records.size import layer_bytes
from sensitivity.records.units import after_drop

DECIBEL = "dB"


@dataclass(frozen=True, slots=True)
class TradeOff:
    """One point between everything quantized and everything in high precision.

    Attributes:
        protected: How many of the worst layers are protected.
        size_bytes: Bytes of all layers' parameters.
        predicted_drop: Sum of the positive drops of the layers that are left quantized, as stored.
        latency_s: Seconds that the engine is expected to take; None where the study has no times.
    """

    protected: int
    size_bytes: int
    predicted_drop: float
    latency_s: float | None = None


def protect(
    study: StudyRecord,
    *,
    top: int | None = None,
    max_drop: float | None = None,
    size_bytes: int | None = None,
    latency_s: float | None = None,
    recipe: RecipeLike | None = None,
) -> Scheme:
    """A scheme with every layer quantized but the ones that hurt most; give exactly one criterion.

    The predicted drop is the sum of the positive drops of the layers left quantized. Drops are **not** additive in
    truth (errors of several layers can cancel or amplify each other), so this is a guess to rank schemes by: measure
    the scheme with ``wrapped.evaluate(task, scheme)`` before relying on it. Where drops are in dB (``FeatureFidelity``)
    noise powers are added instead, which on the nets of the tests comes within 1.5 dB of what is measured. Layers
    without a drop (failed, or never measured) are protected as well, because nothing is known of them; their reason
    says so.

    Args:
        study: What was measured, one layer at a time.
        top: Protect this many of the worst layers.
        max_drop: Protect the worst layers one by one until the predicted drop is at most this, in the unit people see
            (points where the unit is ``%``).
        size_bytes: Bytes that the parameters of all layers may take; layers are protected by drop avoided for each
            extra byte, as far as they fit. See ``layer_bytes`` for what is counted.
        latency_s: Seconds that one run of the whole graph may take, on the engine whose times ``Study.with_latency``
            added; layers are protected by drop avoided for each extra second. What is expected is the quantized
            graph's time and the sum of what protecting each layer alone adds, with its changes of format; neighbours
            that are protected together need fewer, so measure the scheme on the engine.
        recipe: The recipe, or its name, that the other layers get; None where the study has only one.

    Returns:
        Rule ``*`` with the recipe, then one rule for each protected layer, with ``reasons``, ``predicted_drop`` (a
        fraction where the unit is ``%``) and ``size_bytes``. With ``max_drop``, and where the drops have intervals from
        all images, also ``miss_probability``: the chance that the same sum is beyond it on other images of this kind.

    Raises:
        StudyError: If none or several criteria are given, one cannot be met, or the study is ``all-but-one``.
    """
    criteria = {"top": top, "max_drop": max_drop, "size_bytes": size_bytes, "latency_s": latency_s}
    chosen = [name for name, value in criteria.items() if value is not None]
    if len(chosen) != 1:
        raise StudyError(
            f"protect takes exactly one of {', '.join(criteria)}; given: {', '.join(chosen) or 'none'}. "
            "For example protect(top=8)."
        )
    _check_number(chosen[0], criteria[chosen[0]])
    advice = Advice(study, recipe)
    if top is not None:
        return advice.scheme(advice.worst(top))
    if max_drop is not None:
        return advice.scheme(advice.until(max_drop), max_drop=max_drop)
    if size_bytes is not None:
        return advice.scheme(advice.within_bytes(size_bytes))
    assert latency_s is not None
    return advice.scheme(advice.within_seconds(latency_s))


def _check_number(name: str, value: object) -> None:
    """Refuse a criterion that is no number, and a number of layers that is not whole.

    Raises:
        StudyError: If it is one of these.
    """
    kind, expected = (Integral, "a whole number of layers, e.g. 8") if name == "top" else (Real, "a number")
    if isinstance(value, bool) or not isinstance(value, kind):
        raise StudyError(f"{name}={value!r}: give {expected}.")


def trade_offs(study: StudyRecord, recipe: RecipeLike | None = None) -> list[TradeOff]:
    """Size, latency and predicted drop when the worst layers are protected one after the other, none first, all last.

    Raises:
        StudyError: As for ``protect``.
    """
    advice = Advice(study, recipe)
    points = []
    for count in range(len(advice.ranked) + 1):
        protected = advice.ranked[:count]
        points.append(
            TradeOff(count, advice.bytes_with(protected), advice.remaining[count], advice.seconds_with(protected))
        )
    return points


def costs(study: StudyRecord, recipe: str, against: Literal["size", "latency"]) -> list[tuple[float, float]]:
    """Bytes or seconds, and predicted drop, of the points of ``trade_offs``.

    Raises:
        StudyError: As for ``trade_offs``; if ``against`` is another word, or no recipe of the study has times.
    """
    points = trade_offs(study, recipe)
    if against == "size":
        return [(point.size_bytes, point.predicted_drop) for point in points]
    if against != "latency":
        raise StudyError(f"against={against!r}: give 'size' or 'latency'.")
    if not any(latency_of(study, name) for name in study.recipes):
        raise StudyError("this study has no times: add some with study.with_latency(wrapped.latency(recipe, engine)).")
    return [(point.latency_s, point.predicted_drop) for point in points if point.latency_s is not None]


class Advice:
    """One recipe's measurements, ranked, with what protecting costs.

    Attributes:
        ranked: Measurements that have a drop, worst first.
        unknown: Reason by name of each layer that has none.
        remaining: Predicted drop when the first 0, 1, 2 ... of ``ranked`` are protected.
    """

    def __init__(self, study: StudyRecord, recipe: RecipeLike | None) -> None:
        if study.direction != ONE_AT_A_TIME:
            raise StudyError(
                f"protect needs a study of direction {ONE_AT_A_TIME!r}; this one is {study.direction!r}, whose drops "
                f"are of all other layers together.",
                python=f"Run analyze with direction={ONE_AT_A_TIME!r}.",
                shell="Give a study that sensitivity analyze wrote.",
            )
        measurements = {m.layer: m for m in study.of_recipe(recipe)}
        self.study = study
        self.recipe: Recipe = study.recipes[study.recipe_name(recipe)]
        self.layers = {layer.name: layer for layer in study.layers}
        self.verdicts = verdicts(study, recipe=recipe)
        self.ranked: list[Measurement] = worst_first(study, recipe)
        self.unknown = {
            name: _why_unknown(measurements.get(name))
            for name in self.layers
            if name not in measurements or not has_drop(measurements[name])
        }
        self.remaining = [self._together(self.ranked[count:]) for count in range(len(self.ranked) + 1)]
        self.least_bytes = self._least_bytes()
        self.latency: Latency | None = latency_of(study, self.recipe.name)

    def worst(self, count: int) -> list[Measurement]:
        """The ``count`` worst."""
        if not 0 <= count <= len(self.ranked):
            expected = f"give 0 to {len(self.ranked)}, the number of layers that have a drop."
            raise StudyError(python=f"top={count}: {expected}", shell=f"--top {count}: {expected}")
        return self.ranked[:count]

    def until(self, max_drop: float) -> list[Measurement]:
        """The fewest of the worst that bring the predicted drop down to ``max_drop``, which is in people's unit."""
        if isnan(max_drop) or max_drop < 0.0:
            raise StudyError(f"max_drop={max_drop}: give zero or more{after_drop(self.study.unit)}, e.g. 0.5.")
        limit = max_drop / self.study.scale
        count = next(k for k, drop in enumerate(self.remaining) if drop <= limit)
        return self.ranked[:count]

    def within_bytes(self, size_bytes: int) -> list[Measurement]:
        """Layers whose drop is positive, by drop for each extra byte, as far as the budget goes; worst first."""
        if size_bytes < self.least_bytes:
            why = (
                f"is too small: with every measured layer in {self.recipe.name} the layers already take "
                f"{self.least_bytes} bytes. Give at least that, or a recipe of fewer bits."
            )
            raise StudyError(python=f"size_bytes={size_bytes} {why}", shell=f"--size-bytes {size_bytes} {why}")
        return self._within(size_bytes - self.least_bytes, self.extra_bytes)

    def within_seconds(self, latency_s: float) -> list[Measurement]:
        """The same by drop for each extra second."""
        latency, least = self.latency, self.seconds_with([])
        if latency is None or least is None:
            raise StudyError(
                f"no times of recipe {self.recipe.name!r}: a latency budget needs",
                python="study.with_latency(wrapped.latency(recipe, engine)).",
                shell="those that sensitivity analyze --latency ENGINE measures.",
            )
        if isnan(latency_s) or latency_s < least:
            why = (
                f"is too short: with every measured layer in {self.recipe.name}, {latency.engine} already takes "
                f"{least:.3g} s. Give at least that."
            )
            raise StudyError(python=f"latency_s={latency_s} {why}", shell=f"--latency-s {latency_s:g} {why}")
        return self._within(latency_s - least, latency.extra_at_most_s)

    def _within(self, budget: float, extra_of: Callable[[str], float]) -> list[Measurement]:
        """Layers that help, the most drop for what they cost first, as far as the budget goes; worst first."""
        taken = set()
        for measurement in self.worth_most_first(extra_of):
            extra = extra_of(measurement.layer)
            if extra <= budget:
                budget -= extra
                taken.add(measurement.layer)
        return [m for m in self.ranked if m.layer in taken]

    def worth_most_first(self, extra_of: Callable[[str], float]) -> list[Measurement]:
        """Layers that help, the most drop for what they cost first; those that cost nothing before all others."""

        def worth(measurement: Measurement) -> float:
            extra = extra_of(measurement.layer)
            return stored_drop(measurement) / extra if extra > 0 else inf

        return sorted((m for m in self.ranked if stored_drop(m) > 0.0), key=worth, reverse=True)

    def scheme(self, protected: Sequence[Measurement], *, max_drop: float | None = None) -> Scheme:
        """The scheme that protects these, and the layers nothing is known of; ``max_drop`` is what it should meet."""
        ranks = {m.layer: rank for rank, m in enumerate(self.ranked, start=1)}
        reasons = {m.layer: self._reason(m, ranks[m.layer]) for m in protected} | self.unknown
        left = [m for m in self.ranked if m.layer not in reasons]
        return replace(
            Scheme.all(self.recipe).protect(reasons),
            reasons=reasons,
            predicted_drop=self._together(left),
            size_bytes=self.bytes_with(protected),
            unit=self.study.unit,
            miss_probability=None if max_drop is None else self._chance_beyond(max_drop / self.study.scale, left),
            layers=tuple(self.study.layers),
        )

    def _chance_beyond(self, max_drop: float, left: Sequence[Measurement]) -> float | None:
        """Chance that the sum of the positive drops of these is larger on other images; None where it is not known."""
        error = self.error_of(left)
        distance = fsum(max(stored_drop(m), 0.0) for m in left) - max_drop
        return NormalDist().cdf(distance / error) if error else None

    def error_of(self, left: Sequence[Measurement]) -> float | None:
        """Standard error of the sum of the positive drops of these, as stored; None where it is not known.

        What the sum is without each group of images tells its spread, and how layers move together; how far halving the
        images shifts it, how it goes on with more of them.
        """
        harmful = [m for m in left if stored_drop(m) > 0.0]
        groups = {len(m.drops_without) for m in harmful}
        if self.study.unit == DECIBEL or len(groups) != 1 or groups == {0}:
            return None
        if len({len(m.drop_shifts) for m in harmful}) != 1:
            return None
        without, shifts = (
            [fsum(numbers) for numbers in zip(*rows, strict=True)]
            for rows in ([m.drops_without for m in harmful], [m.drop_shifts for m in harmful])
        )
        return total_error(without, shifts)

    def _together(self, left: Sequence[Measurement]) -> float:
        """Drop that is predicted where these are left quantized; ``protect`` says how."""
        losses = [max(stored_drop(m), 0.0) for m in left]
        if self.study.unit != DECIBEL or not losses:
            return fsum(losses)
        baseline = self.study.baseline.value
        noise = fsum(10.0 ** ((loss - baseline) / 10.0) for loss in losses)
        return max(baseline + 10.0 * log10(noise), 0.0) if isfinite(noise) else inf

    def bytes_with(self, protected: Iterable[Measurement]) -> int:
        """Bytes of all layers when these, and the layers nothing is known of, are protected."""
        return self.least_bytes + sum(self.extra_bytes(m.layer) for m in protected)

    def seconds_with(self, protected: Iterable[Measurement]) -> float | None:
        """Seconds that the engine is expected to take likewise; None where the study has no times."""
        if self.latency is None:
            return None
        names = [*self.unknown, *(m.layer for m in protected)]
        return self.latency.quantized_s + sum(map(self.latency.extra_s, names))

    def _least_bytes(self) -> int:
        return sum(
            layer_bytes(layer, None if name in self.unknown else self.recipe) for name, layer in self.layers.items()
        )

    def extra_bytes(self, name: str) -> int:
        """Bytes that protecting a layer costs."""
        layer = self.layers[name]
        return layer_bytes(layer, None) - layer_bytes(layer, self.recipe)

    def _reason(self, measurement: Measurement, rank: int) -> str:
        drop = stored_drop(measurement) * self.study.scale
        digits = ".1g" if 0.0 < abs(drop) < 0.005 else ".2f"
        place = f"drop {drop:{digits}}{after_drop(self.study.unit)} (rank {rank} of {len(self.ranked)})"
        verdict = self.verdicts.get(measurement.layer)
        return ", ".join([place, *([verdict] if verdict else []), *sorted(self.layers[measurement.layer].flags)])


def _why_unknown(measurement: Measurement | None) -> str:
    if measurement is None:
        return "not measured: not in the analysis"
    return f"not measured: {measurement.remarks or measurement.status}"
