"""The way of a search: the score of every scheme that was measured, against fp32 and the target."""

from __future__ import annotations

from math import ceil, isfinite

from matplotlib.axes import Axes

from sensitivity.records.results.tuned import Step, StepKind, TunedRecord
from sensitivity.report import style
from sensitivity.report.figures.picture import Picture
from sensitivity.report.path import described_step, shown, title

_INCHES_A_STEP, _ABOVE = 0.36, 0.95
_TO_LEGEND, _INCHES_A_ENTRY, _LEGEND_COLUMNS = 0.32, 0.2, 2
_INCHES_A_LETTER = 0.068
_PLOT, _RIGHT = 5.4, 1.25


def path(record: TunedRecord) -> Picture:
    """One row for each step from top to bottom, its score with its interval; the target as a shaded region."""
    names = [_name(number, step) for number, step in enumerate(record.steps, 1)]
    left = 0.35 + _INCHES_A_LETTER * max((len(name) for name in names), default=0)
    inner = max(1.2, _INCHES_A_STEP * (len(names) + (record.engine is not None)))
    below = _TO_LEGEND + _INCHES_A_ENTRY * ceil(len(_kinds(record)) / _LEGEND_COLUMNS) + 0.1
    width, height = left + _PLOT + _RIGHT, _ABOVE + inner + below
    picture = Picture(width, height)
    axes = picture.add_axes((left / width, below / height, _PLOT / width, inner / height))
    _draw_target(axes, record)
    for row, step in enumerate(record.steps):
        _draw_step(axes, record, row, step)
    if record.engine is not None:
        names.append(f"on {record.engine.engine}")
        _draw_engine(axes, record, len(record.steps))
    _finish(axes, record, names)
    _draw_legend(axes, record, inner)
    picture.text(
        0.02,
        1 - 0.3 / height,
        title(record),
        fontsize=style.TITLE_POINTS,
        fontweight="bold",
        parse_math=False,
        verticalalignment="center",
    )
    return picture


def _kinds(record: TunedRecord) -> list[StepKind]:
    """The kinds of the steps, in the order in which they come."""
    return list(dict.fromkeys(step.kind for step in record.steps))


def _draw_legend(axes: Axes, record: TunedRecord, inner: float) -> None:
    """What the colours mean, below the numbers of axes that are ``inner`` inches high."""
    for kind in _kinds(record):
        axes.plot([], [], marker="o", linestyle="none", color=style.STEP_INKS[kind].light, label=style.STEP_WORDS[kind])
    axes.legend(
        fontsize=style.SMALL_POINTS,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(-0.02, -_TO_LEGEND / inner),
        borderaxespad=0.0,
        ncols=_LEGEND_COLUMNS,
    )


def _name(number: int, step: Step) -> str:
    return f"{number}  {described_step(step)}"


def _draw_target(axes: Axes, record: TunedRecord) -> None:
    baseline = record.baseline.value * record.scale
    axes.axvline(baseline, color=style.BASELINE, linewidth=1.0, linestyle="--", gid="baseline")
    label = f"fp32 {shown(record.baseline.value, record)}"
    axes.annotate(
        label, (baseline, 1.0), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
        horizontalalignment="center", fontsize=style.SMALL_POINTS, annotation_clip=False,
    )  # fmt: skip
    if record.goal.max_drop is not None:
        sign = 1.0 if record.higher_is_better else -1.0
        limit = baseline - sign * record.goal.max_drop
        scores = [step.score * record.scale for step in record.steps if step.score is not None]
        far = max([baseline, *scores]) if record.higher_is_better else min([baseline, *scores])
        far += sign * max(abs(far - limit), 1e-9)
        axes.axvspan(limit, far, color=style.KIND_INKS["att"].light, alpha=0.10, linewidth=0, gid="target")


def _draw_step(axes: Axes, record: TunedRecord, row: int, step: Step) -> None:
    colour = style.STEP_INKS[step.kind].light
    if step.score is None or not isfinite(step.score):
        axes.text(
            0.01,
            row,
            "failed",
            transform=axes.get_yaxis_transform(),
            fontsize=style.SMALL_POINTS,
            verticalalignment="center",
        )
        return
    score = step.score * record.scale
    ends = _interval(record, step)
    if ends:
        axes.plot(ends, [row, row], color=colour, linewidth=1.2, alpha=0.5, gid="interval")
    size = 10 if step.chosen else 6.5
    axes.plot([score], [row], marker="*" if step.chosen else "o", markersize=size, color=colour, gid="step")
    text = f"{shown(step.score, record)}" + ("  chosen" if step.chosen else "")
    _beside(axes, row, text, bold=step.chosen)


def _interval(record: TunedRecord, step: Step) -> list[float]:
    """The ends of a step's interval as scores; none where it has no interval."""
    if step.drop_low is None or step.drop_high is None:
        return []
    sign = 1.0 if record.higher_is_better else -1.0
    return [(record.baseline.value - sign * drop) * record.scale for drop in (step.drop_low, step.drop_high)]


def _draw_engine(axes: Axes, record: TunedRecord, row: int) -> None:
    engine = record.engine
    assert engine is not None
    axes.plot(
        [engine.score * record.scale], [row], marker="D", markersize=6, color=style.ENGINE_INK.light, gid="engine"
    )
    speed = "" if engine.speedup is None else f"  {engine.speedup:.2f}x"
    _beside(axes, row, f"{shown(engine.score, record)}{speed}", bold=False)


def _beside(axes: Axes, row: int, text: str, *, bold: bool) -> None:
    axes.text(
        1.01,
        row,
        text,
        transform=axes.get_yaxis_transform(),
        fontsize=style.SMALL_POINTS,
        fontweight="bold" if bold else "normal",
        verticalalignment="center",
        parse_math=False,
    )


def _finish(axes: Axes, record: TunedRecord, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=style.SMALL_POINTS, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    scores = [step.score * record.scale for step in record.steps if step.score is not None and isfinite(step.score)]
    scores.append(record.baseline.value * record.scale)
    scores += [end for step in record.steps for end in _interval(record, step) if isfinite(end)]  # none is cut off
    low, high = min(scores), max(scores)
    room = max(high - low, 1e-6) * 0.12
    axes.set_xlim(low - room, high + room)
    unit = f" ({record.unit})" if record.unit else ""
    axes.set_title(f"{record.metric}{unit}", fontsize=style.TEXT_POINTS, loc="right", pad=16, parse_math=False)
    axes.tick_params(axis="x", labelsize=style.SMALL_POINTS, color=style.TICK)
    axes.tick_params(axis="y", length=0)
    axes.grid(color=style.GRID, linewidth=0.6, axis="x")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
