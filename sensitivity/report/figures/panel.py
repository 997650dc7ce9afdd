"""How one panel of dips is drawn; ``report.dip`` says what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from sensitivity.records import StudyRecord
from sensitivity.records.results.verdict import Verdict
from sensitivity.report import style
from sensitivity.report.dip import Dip, hang_from
from sensitivity.report.figures.labels import Label, place_labels
from sensitivity.report.figures.marks import (
    BASELINE_COLOUR,
    FAILED_COLOUR,
    INTERVAL_COLOUR,
    MARKER_SIZES,
    colour_of,
    filling_of,
    marker_of,
)
from sensitivity.report.reading import Reading

# least height of the y axis as a multiple of the drop that does not matter: chance is not blown up to look like dips
_LEAST_SPAN = 4.0


def draw(axes: Axes, reading: Reading, dips: Sequence[Dip]) -> None:
    """The baseline, a stem and a marker for each score, lines for intervals, crosses where there is no result."""
    hang = hang_from(reading.study, dips)
    if isfinite(reading.study.baseline.value):
        _draw_baseline(axes, hang, reading.shown(reading.study.baseline.value))
    for dip in dips:
        if dip.score is None:
            _draw_cross(axes, dip.position)
        else:
            _draw_dip(axes, dip, dip.score, hang)


def set_limits(axes: Axes, reading: Reading, dips: Sequence[Dip]) -> None:
    """Limits with room for labels below the deepest dip; better is up, also where lower scores are better.

    Every interval is inside as a whole.
    """
    study = reading.study
    scores = [dip.score for dip in dips if dip.score is not None] + [hang_from(study, dips)]
    low, high = min(scores), max(scores)
    span = max(high - low, _LEAST_SPAN * reading.tolerance * study.scale, 1e-9)
    ends = [end for dip in dips if dip.ends is not None for end in dip.ends if isfinite(end)]
    low, high = min([low, *ends]), max([high, *ends])
    span = max(high - low, span)
    room_worse, room_better = 0.24 * span, 0.06 * span
    if study.higher_is_better:
        axes.set_ylim(high - span - room_worse, high + room_better)
    else:
        axes.set_ylim(low + span + room_worse, low - room_better)


def label_worst(axes: Axes, reading: Reading, dips: Sequence[Dip], recipe: str, count: int) -> None:
    """Name, drop and verdict beside the worst layers that lose anything. The limits must be final.

    With all layers but one perturbed there are no verdicts, and the worst are labelled whatever their drop.
    """
    at = {dip.layer.name: dip for dip in dips}
    labels = []
    for measurement in reading.worst_first[recipe][:count]:
        dip = at[measurement.layer]
        loses = measurement.drop is not None and measurement.drop > 0.0
        if dip.score is not None and (loses or not reading.one_at_a_time):
            verdict = "" if dip.verdict in (None, Verdict.DIP) else f", {dip.verdict}"
            labels.append(
                Label(dip.position, dip.score, f"{dip.layer.name}\ndrop {reading.drop(measurement)}{verdict}")
            )
    place_labels(axes, labels, _covered(axes, reading.study, dips))


def _draw_baseline(axes: Axes, height: float, value: str) -> None:
    """A line across the panel, with its value in the margin on the right."""
    axes.axhline(height, color=BASELINE_COLOUR, linewidth=1.0, zorder=2, gid="baseline")
    axes.annotate(
        value,
        xy=(1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=style.SMALL_POINTS,
        va="center",
        annotation_clip=False,
        gid="baseline-value",
    )


def _draw_dip(axes: Axes, dip: Dip, score: float, hang: float) -> None:
    colour, marker = colour_of(dip.layer), marker_of(dip.layer)
    strength = 0.4 if dip.verdict in (Verdict.UNDECIDED, Verdict.HARMLESS) else 0.75
    axes.vlines(dip.position, score, hang, color=colour, linewidth=1.6, alpha=strength, zorder=3, gid="stem")
    if dip.ends is not None:
        axes.vlines(dip.position, *dip.ends, color=INTERVAL_COLOUR, linewidth=1.2, zorder=2.5, gid="interval")
    axes.plot(
        dip.position,
        score,
        marker=marker,
        markersize=MARKER_SIZES[marker],
        color=colour,
        **filling_of(dip.verdict, colour),
        zorder=5,
        gid="marker",
    )


def _draw_cross(axes: Axes, position: int) -> None:
    axes.plot(
        position,
        0.0,
        transform=axes.get_xaxis_transform(),
        marker="x",
        markersize=6,
        markeredgewidth=1.6,
        color=FAILED_COLOUR,
        clip_on=False,
        zorder=6,
        gid="no-result",
    )


def _covered(axes: Axes, study: StudyRecord, dips: Sequence[Dip]) -> list[Bbox]:
    """Pixel boxes of stems, intervals and markers, which labels had better leave visible."""
    hang, half = hang_from(study, dips), max(MARKER_SIZES.values()) * axes.figure.dpi / 72 / 2
    boxes = []
    for dip in dips:
        if dip.score is None:
            continue
        heights = axes.transData.transform([(dip.position, y) for y in (dip.score, hang, *(dip.ends or ()))])
        x, y = heights[0]
        boxes.append(Bbox.from_extents(x - half, y - half, x + half, y + half))
        boxes.append(Bbox.from_extents(x - 2, heights[:, 1].min(), x + 2, heights[:, 1].max()))
    return boxes
