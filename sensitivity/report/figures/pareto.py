"""Accuracy against size or latency: the predicted curve of a study, and schemes that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Literal, TypeAlias

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from sensitivity.errors import StudyError
from sensitivity.records import Score, StudyRecord
from sensitivity.report import style
from sensitivity.report.figures.labels import Label, place_labels
from sensitivity.report.figures.picture import Picture
from sensitivity.report.tables.frontier import NORMAL_95

MIB = 2**20
_AXES = {"size": (1 / MIB, "parameters of all layers (MiB)"), "latency": (1e3, "time of one run (ms)")}
Curve: TypeAlias = Sequence[tuple[float, float, float | None]]
"""Cost, predicted drop and its standard error of one scheme after the other."""

_MEASURED_COLOUR = style.KIND_INKS["mb"].light


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """A measured scheme.

    Attributes:
        label: What it is called.
        cost: Size in MiB (2^20 bytes), or time in ms.
        score: In the unit people see.
    """

    label: str
    cost: float
    score: float


def pareto(
    study: StudyRecord,
    curves: Mapping[str, Curve],
    against: Literal["size", "latency"] = "size",
    *,
    measured: Iterable[tuple[str, float, float | Score]] = (),
    max_drop: float | None = None,
) -> Picture:
    """Accuracy against bytes of the layers' parameters, or against seconds of one run.

    A line for each recipe says what its best scheme at each cost is predicted to score, from everything quantized
    (left) on, with a band for the 95 % interval on other images. Measured schemes tell how far off that is; those
    that no other measured scheme beats in both cost and score are joined as the front.

    Args:
        study: What was measured, one layer at a time.
        curves: Recipe to cost, predicted drop and its standard error (None where it is not known), both as stored,
            with none, one, two ... layers protected. A cost is in bytes, or in seconds against latency.
        against: ``size`` or ``latency``.
        measured: Label, cost and score of each scheme that was measured; the score as ``wrapped.evaluate`` returned it,
            or as a number in the unit people see (percent where the study's unit is ``%``).
        max_drop: Drawn as a line, in the unit people see; None draws none.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        StudyError: If the baseline or a measured number is not finite.
    """
    if not isfinite(study.baseline.value):
        raise StudyError(f"no curve from a baseline of {study.baseline.value}: the task's metric must be finite.")
    scale, words = _AXES[against]
    points = [_point(study, scale, *scheme) for scheme in measured]
    figure = Picture(7.5, 5.0)
    axes = figure.add_axes((0.11, 0.12, 0.85, 0.78))
    _draw_curves(axes, study, scale, curves)
    baseline, text = study.scale * study.baseline.value, f"baseline {shown_baseline(study)}"
    axes.axhline(baseline, color=style.BASELINE, linewidth=0.8, linestyle="--", label=text, gid="baseline")
    if max_drop is not None:
        target = baseline - (1.0 if study.higher_is_better else -1.0) * max_drop
        words_of_target = f"target {target:.2f} {study.unit}".rstrip()
        axes.axhline(target, color=_MEASURED_COLOUR, linewidth=0.8, linestyle="-.", label=words_of_target, gid="target")
    if points:
        _draw_measured(axes, points, front(points, study.higher_is_better))
    _finish(axes, study, words)
    place_labels(axes, [Label(p.cost, p.score, p.label) for p in points], _covered(axes))
    return figure


def front(points: Iterable[ParetoPoint], higher_is_better: bool) -> list[ParetoPoint]:
    """The points that no other beats or equals in both cost and score, smallest first."""
    sign = 1.0 if higher_is_better else -1.0
    front_points: list[ParetoPoint] = []
    for point in sorted(points, key=lambda p: (p.cost, -sign * p.score)):
        if not front_points or sign * point.score > sign * front_points[-1].score:
            front_points.append(point)
    return front_points


def _point(study: StudyRecord, scale: float, label: str, cost: float, score: float | Score) -> ParetoPoint:
    shown = score.value * study.scale if isinstance(score, Score) else score
    if not (isfinite(cost) and isfinite(shown)):
        raise StudyError(f"measured scheme {label!r} costs {cost} and scores {shown}: give finite numbers.")
    if not isinstance(score, Score) and study.unit == "%" and _is_fraction(study, score):
        raise StudyError(
            f"measured scheme {label!r} scores {score:g}, which as {study.metric} in % is next to nothing, and as a "
            f"fraction near the baseline of {shown_baseline(study)}. Give {100 * score:g}, or what wrapped.evaluate "
            "returned."
        )
    return ParetoPoint(label, cost * scale, shown)


def shown_baseline(study: StudyRecord) -> str:
    """The baseline as people see it."""
    return f"{study.scale * study.baseline.value:.2f} {study.unit}".rstrip()


def _is_fraction(study: StudyRecord, score: float) -> bool:
    """Whether a score, meant as percent, would be lost beside the baseline, but is like it as a fraction."""
    baseline = study.baseline.value
    return baseline > 0.02 and 0.5 * baseline <= score <= min(1.0, 1.5 * baseline)


def _draw_curves(axes: Axes, study: StudyRecord, scale: float, curves: Mapping[str, Curve]) -> None:
    sign = 1.0 if study.higher_is_better else -1.0

    def score(drop: float) -> float:
        return study.scale * (study.baseline.value - sign * drop)

    has_band = False
    for number, (name, curve) in enumerate(curves.items()):
        colour = style.SERIES_INKS[number % len(style.SERIES_INKS)].light
        costs = [cost * scale for cost, _, _ in curve]
        label = f"{name}: best scheme at each cost (predicted)"
        scores = [score(drop) for _, drop, _ in curve]
        axes.step(costs, scores, where="post", color=colour, linewidth=1.6, label=label, gid="curve")
        if any(error for _, _, error in curve):
            spreads = [NORMAL_95 * (error or 0.0) for _, _, error in curve]
            low, high = ([score(d + side * s) for (_, d, _), s in zip(curve, spreads, strict=True)] for side in (1, -1))
            axes.fill_between(
                costs,
                low,
                high,
                step="post",
                color=colour,
                alpha=0.15,
                linewidth=0,
                gid="band",
                label=None if has_band else "95 % interval of it, for other images",
            )
            has_band = True


def _draw_measured(axes: Axes, points: Sequence[ParetoPoint], best: Sequence[ParetoPoint]) -> None:
    if len(best) > 1:  # a step needs two ends
        axes.step(
            [p.cost for p in best],
            [p.score for p in best],
            where="post",
            color=_MEASURED_COLOUR,
            linewidth=1.0,
            linestyle=":",
            label="front of the measured schemes",
            gid="front",
        )
    axes.plot(
        [p.cost for p in points],
        [p.score for p in points],
        linestyle="none",
        marker="o",
        color=_MEASURED_COLOUR,
        label="measured schemes",
        gid="measured",
    )


def _covered(axes: Axes) -> list[Bbox]:
    """Pixel boxes of the markers, and of every step of the curves and the front."""
    boxes = []
    for line in axes.lines:
        pixels = axes.transData.transform(line.get_xydata())
        if line.get_gid() == "measured":
            boxes += [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in pixels]
        elif line.get_gid() in ("curve", "front"):
            for (x0, y0), (x1, y1) in pairwise(pixels):
                boxes += [Bbox.from_extents(x0, y0 - 1, x1, y0 + 1), Bbox.from_extents(x1 - 1, y0, x1 + 1, y1)]
    return boxes


def _finish(axes: Axes, study: StudyRecord, words: str) -> None:
    """Final limits, words and grid. A predicted share below zero is out of the picture: no score can be that low."""
    axes.margins(0.06, 0.1)
    if study.unit == "%" and study.higher_is_better and axes.dataLim.y0 < 0.0:
        axes.set_ylim(0.0, axes.dataLim.y1 * 1.08)
    if not study.higher_is_better:
        axes.invert_yaxis()
    unit = f" ({study.unit})" if study.unit else ""
    axes.set_ylabel(f"{study.metric}{unit}", fontsize=style.TEXT_POINTS, parse_math=False)
    axes.set_xlabel(words, fontsize=style.TEXT_POINTS)
    title = f"{study.model} on {study.task}"
    axes.set_title(title, fontsize=style.TITLE_POINTS, fontweight="bold", loc="left", parse_math=False)
    axes.tick_params(labelsize=style.SMALL_POINTS, color=style.TICK)
    axes.grid(color=style.GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(
        fontsize=style.SMALL_POINTS, frameon=False, loc="lower right" if study.higher_is_better else "upper right"
    )
