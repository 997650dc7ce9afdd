"""The best scheme for each size or latency that a study predicts, with what is not known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sensitivity.advise.protect import Advice
from sensitivity.errors import StudyError
from sensitivity.records import Scheme, StudyRecord
from sensitivity.records.results.latency import latency_of

Against = Literal["size", "latency"]


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A scheme that no other scheme of its recipe is predicted to beat at its cost.

    Attributes:
        recipe: Name of the recipe of the layers that are not protected.
        cost: Bytes of all layers' parameters, or seconds of one run.
        scheme: Which layers are protected; with the predicted drop, and the chance that it misses ``max_drop``.
        error: Standard error of the predicted drop on other images, as stored; None where it is not known.
    """

    recipe: str
    cost: float
    scheme: Scheme
    error: float | None

    @property
    def drop(self) -> float:
        """The predicted drop, as stored."""
        return self.scheme.predicted_drop or 0.0

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """What tells it from every other point of a study."""
        return self.recipe, self.protected

    @property
    def protected(self) -> tuple[str, ...]:
        """Names of the layers in high precision."""
        return tuple(self.scheme.reasons)


def frontier(
    study: StudyRecord, recipe: str, against: Against = "size", *, max_drop: float | None = None
) -> list[FrontierPoint]:
    """From everything quantized to no harm predicted: layers protected by drop avoided for each byte or second.

    Layers whose measured drop is not positive stay quantized. Empty against latency where the recipe has no times.

    Args:
        study: What was measured, one layer at a time.
        recipe: Name of a recipe of the study.
        against: ``size`` or ``latency``.
        max_drop: In the unit people see; each scheme then says how likely it misses this.

    Raises:
        StudyError: As for ``protect``; if ``against`` is another word, or no recipe of the study has times.
    """
    advice = Advice(study, recipe)
    if against not in ("size", "latency"):
        raise StudyError(f"against={against!r}: give 'size' or 'latency'.")
    if against == "latency" and not any(latency_of(study, name) for name in study.recipes):
        raise StudyError("this study has no times: add some with study.with_latency(wrapped.latency(recipe, engine)).")
    if against == "size":
        order = advice.worth_most_first(advice.extra_bytes)
    elif advice.latency is None:
        return []
    else:
        order = advice.worth_most_first(advice.latency.extra_at_most_s)
    points = []
    for count in range(len(order) + 1):
        taken = {measurement.layer for measurement in order[:count]}
        protected = [measurement for measurement in advice.ranked if measurement.layer in taken]
        cost = advice.bytes_with(protected) if against == "size" else advice.seconds_with(protected)
        left = [measurement for measurement in advice.ranked if measurement.layer not in taken]
        scheme = advice.scheme(protected, max_drop=max_drop)
        points.append(FrontierPoint(recipe, cost or 0.0, scheme, advice.error_of(left)))
    return points


def spread_out(points: Sequence[FrontierPoint], count: int) -> list[FrontierPoint]:
    """So many of the points, all if they are fewer: the first, the last, and where the drop is a half, a quarter ..."""
    if len(points) <= count or count < 2:
        return list(points[: max(count, 0)])
    taken = {0, len(points) - 1}
    for halvings in range(1, count - 1):
        others = [place for place in range(len(points)) if place not in taken]
        taken.add(min(others, key=lambda place: abs(points[place].drop - points[0].drop / 2.0**halvings)))
    return [points[place] for place in sorted(taken)]
