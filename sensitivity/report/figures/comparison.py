"""Two studies against each other: the drop of every layer in one against that in the other."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from sensitivity.errors import StudyError
from sensitivity.records import Layer, StudyRecord
from sensitivity.records.units import unit_of_drops
from sensitivity.report import style
from sensitivity.report.figures.labels import Label, place_labels
from sensitivity.report.figures.layer_axis import draw_legend, draw_title
from sensitivity.report.figures.marks import colour_of, layer_handles, marker_of
from sensitivity.report.figures.picture import Picture
from sensitivity.report.tables.table import compare

_MARK_PIXELS = 5.0


def comparison(
    study: StudyRecord,
    other: StudyRecord,
    recipes: tuple[str, str],
    *,
    names: tuple[str, str],
    label: int,
) -> Picture:
    """A point for each layer that both studies measured; on the dashed line it drops as much in both.

    Args:
        study: What is drawn to the right.
        other: What is drawn upwards.
        recipes: The recipe of each.
        names: What the two are called on the axes.
        label: How many layers to label: those with the largest drop in either.

    Raises:
        StudyError: If no layer was measured in both.
    """
    frame = compare(study, other, recipe=recipes[0], other_recipe=recipes[1])
    common = frame.dropna(subset=["drop", "drop_other"])
    if common.empty:
        raise StudyError("nothing to plot: no layer was measured in both studies, whose layers have different names.")
    layers = {layer.name: layer for layer in study.layers}
    picture = Picture(7.0, 5.6)
    axes = picture.add_axes((0.11, 0.11, 0.6, 0.78))
    _draw(axes, common, layers)
    axes.set_xlabel(f"drop, {names[0]}{_unit(study)}")
    axes.set_ylabel(f"drop, {names[1]}{_unit(other)}")
    draw_legend(axes, layer_handles(layers[name] for name in common["name"]))
    correlation = frame.attrs["rank_correlation"]
    draw_title(axes, f"{study.model}: rank correlation {correlation:.2f} over {len(common)} layers")
    _label(axes, common.loc[common[["rank", "rank_other"]].min(axis=1).sort_values(kind="stable").index].head(label))
    return picture


def _draw(axes: Axes, common: pd.DataFrame, layers: dict[str, Layer]) -> None:
    for name, drop, other_drop in _points(common):
        layer = layers[name]
        axes.plot([drop], [other_drop], marker_of(layer), color=colour_of(layer), markersize=6, gid="layer")
    low = min(common["drop"].min(), common["drop_other"].min(), 0.0)
    high = max(common["drop"].max(), common["drop_other"].max())
    axes.plot([low, high], [low, high], color=style.BASELINE, linewidth=0.8, linestyle="--", gid="equal", zorder=0)
    for limits, column in ((axes.set_xlim, "drop"), (axes.set_ylim, "drop_other")):  # labels are placed in final limits
        ends = min(common[column].min(), 0.0), max(common[column].max(), 0.0)
        room = 0.06 * max(ends[1] - ends[0], 1e-9)
        limits(ends[0] - room, ends[1] + room)
    axes.tick_params(labelsize=style.SMALL_POINTS, color=style.TICK)
    axes.grid(color=style.GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label(axes: Axes, worst: pd.DataFrame) -> None:
    labels = [Label(drop, other_drop, name) for name, drop, other_drop in _points(worst)]
    place_labels(axes, labels, [_mark(axes, label) for label in labels])


def _points(frame: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Each layer with its two drops."""
    return list(zip(frame["name"].tolist(), frame["drop"].tolist(), frame["drop_other"].tolist(), strict=True))


def _mark(axes: Axes, label: Label) -> Bbox:
    x, y = axes.transData.transform((label.x, label.y))
    return Bbox.from_extents(x - _MARK_PIXELS, y - _MARK_PIXELS, x + _MARK_PIXELS, y + _MARK_PIXELS)


def _unit(study: StudyRecord) -> str:
    unit = unit_of_drops(study.unit)
    return f" ({unit})" if unit else ""
