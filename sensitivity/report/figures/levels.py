"""Layers against levels: a map of every layer's drop under each recipe of a study, e.g. of a sparsity sweep."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, PowerNorm
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from sensitivity.errors import StudyError
from sensitivity.records import Layer, Recipe
from sensitivity.records.results.study import RecipeLike
from sensitivity.report import style
from sensitivity.report.dip import stage_runs
from sensitivity.report.figures.page import stack
from sensitivity.report.figures.picture import Picture
from sensitivity.report.reading import Reading

_LEFT, _RIGHT, _EDGE = 1.15, 1.25, 0.12  # inches
_TITLE_HEIGHT, _STAGE_ROW, _MOST_STAGE_ROWS = 0.8, 0.17, 4
_ROW, _LEAST_HEIGHT = 0.36, 1.1
_LEAST_WIDTH, _LEAST_PITCH, _USUAL_PITCH, _USUAL_WIDTH = 4.6, 0.145, 0.22, 13.0
_BAR_GAP, _BAR_WIDTH = 0.18, 0.14
_TICK_SHARES = (0.0, 0.05, 0.25, 0.5, 1.0)

Floats = npt.NDArray[np.float64]


def levels(reading: Reading, *, recipes: Sequence[RecipeLike] | None = None) -> Picture:
    """The drop of every layer under every recipe, as colours: layers in execution order, one row a recipe.

    Colours follow the square root of the drop, so that the many small ones can be told apart. A dot marks the worst
    layer of its row; blue is a gain, hatched cells have no result, empty ones were not analysed.

    Args:
        reading: What there is to show.
        recipes: Recipes or their names from top to bottom; None for all in the study's order.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        StudyError: If a recipe is unknown, or no layer has a finite drop under any of them.
    """
    study = reading.study
    names = tuple(study.recipes) if recipes is None else tuple(map(study.recipe_name, recipes))
    if not names:
        raise StudyError(f"recipes={recipes!r}: name one or more of {', '.join(study.recipes)}, or give None for all.")
    analysed = {m.layer for name in names for m in study.of_recipe(name)}
    layers = [layer for layer in study.layers if layer.name in analysed]
    drops = _drops(reading, layers, names)
    if not np.isfinite(drops).any():
        raise StudyError(f"nothing to plot: no layer of {study.model} has a drop under {', '.join(names) or 'any'}.")
    picture, axes = _canvas(len(layers), len(names))
    colours, norm = _colours(), PowerNorm(0.5, vmin=0.0, vmax=max(float(np.nanmax(drops)), reading.tolerance, 1e-12))
    _draw_cells(axes, drops, colours, norm)
    _hatch_failures(axes, reading, layers, names, drops)
    _mark_worst(axes, drops, norm)
    pitch = (picture.get_size_inches()[0] - _LEFT - _RIGHT) / len(layers)
    _write_names(axes, layers, [_row_label(study.recipes[name]) for name in names], pitch)
    _arrange(picture, axes, _stage_names(axes, layers))
    _draw_bar(picture, axes, reading, ScalarMappable(norm, colours))
    subject = "one layer at a time" if reading.one_at_a_time else "all layers but one"
    details = f"{study.metric}  ·  {subject}  ·  images: {study.baseline.images}"
    _title(picture, f"{study.model} on {study.task}", details, _key(axes, drops))
    return picture


def _key(axes: Axes, drops: Floats) -> str:
    """What the marks mean that are there."""
    parts = ["dot: worst of its row"] if any(line.get_gid() == "worst" for line in axes.lines) else []
    parts += ["blue: a gain"] if bool((drops < 0).any()) else []
    parts += ["hatched: no result"] if any(patch.get_gid() == "failed" for patch in axes.patches) else []
    return "  ·  ".join(parts)


def _drops(reading: Reading, layers: Sequence[Layer], names: Sequence[str]) -> Floats:
    """Drops as stored, (recipes, layers); NaN where there is none; those that do not matter are zero."""
    place = {layer.name: column for column, layer in enumerate(layers)}
    drops = np.full((len(names), len(layers)), np.nan)
    for row, name in enumerate(names):
        for m in reading.study.of_recipe(name):
            if m.drop is not None and isfinite(m.drop):
                drops[row, place[m.layer]] = m.drop if abs(m.drop) > reading.tolerance else 0.0
    return drops


def _colours() -> Colormap:
    return LinearSegmentedColormap.from_list("drops", style.DROP_COLOURS).with_extremes(
        under=style.GAIN_COLOUR, bad=(0, 0, 0, 0)
    )


def _canvas(layers: int, rows: int) -> tuple[Picture, Axes]:
    width = max(_LEAST_WIDTH, min(_USUAL_PITCH, max(_LEAST_PITCH, _USUAL_WIDTH / layers)) * layers)
    picture = Picture(_LEFT + width + _RIGHT, max(_LEAST_HEIGHT, rows * _ROW) + 2.0)
    axes = picture.add_axes((0.1, 0.3, 0.7, 0.5))
    axes.set_xlim(-0.5, layers - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    for side in axes.spines.values():
        side.set_visible(False)
    return picture, axes


def _draw_cells(axes: Axes, drops: Floats, colours: Colormap, norm: PowerNorm) -> None:
    rows, columns = (np.arange(size + 1) - 0.5 for size in drops.shape)
    axes.pcolormesh(columns, rows, drops, cmap=colours, norm=norm, edgecolors="white", linewidth=0.6, gid="drops")


def _hatch_failures(axes: Axes, reading: Reading, layers: Sequence[Layer], names: Sequence[str], drops: Floats) -> None:
    hatched: dict[str, Any] = {"facecolor": "white", "edgecolor": style.NO_DROP_COLOUR, "hatch": "////", "lw": 0}
    for row, name in enumerate(names):
        results = {m.layer for m in reading.study.of_recipe(name)}
        for column, layer in enumerate(layers):
            if np.isnan(drops[row, column]) and layer.name in results:
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, gid="failed", **hatched))


def _mark_worst(axes: Axes, drops: Floats, norm: PowerNorm) -> None:
    for row, of_recipe in enumerate(drops):
        if np.nanmax(of_recipe, initial=0.0) > 0.0:
            worst = int(np.nanargmax(of_recipe))
            colour = style.BASELINE if float(norm(of_recipe[worst])) < 0.5 else "white"
            axes.plot(worst, row, marker="o", markersize=3.2, color=colour, linestyle="none", gid="worst")


def _write_names(axes: Axes, layers: Sequence[Layer], rows: Sequence[str], pitch: float) -> None:
    axes.set_xticks(range(len(layers)))
    size = min(8.5, max(6.2, pitch * 72 * 0.62))
    axes.set_xticklabels(
        [layer.name for layer in layers], rotation=90, fontsize=size, color=style.TEXT, parse_math=False
    )
    axes.set_yticks(range(len(rows)))
    axes.set_yticklabels(rows, fontsize=style.TEXT_POINTS, color=style.TEXT, parse_math=False)
    axes.tick_params(length=0, pad=4)


def _row_label(recipe: Recipe) -> str:
    """The level of a recipe that does nothing but prune; the name of any other."""
    pruning = recipe.pruning
    if pruning is None or recipe.weights is not None or recipe.activations is not None:
        return recipe.name if len(recipe.name) <= 16 else f"{recipe.name[:15]}…"
    return f"{pruning.n}:{pruning.m} kept" if pruning.level is None else f"{100 * pruning.level:.4g} % pruned"


def _stage_names(axes: Axes, layers: Sequence[Layer]) -> list[Text]:
    """A name over each stage, and a line between it and the next."""
    names = []
    for stage, first, last in stage_runs(layers):
        if first:
            axes.axvline(first - 0.5, color=style.QUIET, linewidth=0.8, gid="stage")
        place = ((first + last) / 2, 1.0)
        text_style: dict[str, Any] = {
            "ha": "center",
            "va": "bottom",
            "fontsize": style.SMALL_POINTS,
            "color": style.QUIET,
            "parse_math": False,
        }
        names.append(axes.text(*place, stage, transform=axes.get_xaxis_transform(), gid="stage-name", **text_style))
    return names


def _arrange(picture: Picture, axes: Axes, stage_names: list[Text]) -> None:
    """Sizes and places from the texts' real extents."""
    dpi = picture.dpi
    width, height = picture.get_size_inches()
    columns, rows = axes.get_xlim()[1] + 0.5, axes.get_ylim()[0] + 0.5
    below = max(label.get_window_extent().height for label in axes.get_xticklabels()) / dpi + 0.1 + _EDGE
    left = max(label.get_window_extent().width for label in axes.get_yticklabels()) / dpi + 0.1 + _EDGE
    room = width - _LEFT - _RIGHT
    width, tall = left + room + _RIGHT, max(_LEAST_HEIGHT, rows * _ROW)
    picture.set_size_inches(width, height)
    axes.set_position((left / width, 0.3, room / width, 0.5))
    stacked = stack([text.get_window_extent() for text in stage_names])
    if max(stacked) >= _MOST_STAGE_ROWS or columns == 0:
        for text in stage_names:
            text.remove()
        stage_names, stacked = [], []
    height = below + tall + _TITLE_HEIGHT + _STAGE_ROW * (max(stacked, default=-1) + 1)
    picture.set_size_inches(width, height)
    axes.set_position((left / width, below / height, room / width, tall / height))
    for text, row in zip(stage_names, stacked, strict=True):
        text.set_y(1.0 + (0.03 + _STAGE_ROW * row) / tall)


def _draw_bar(picture: Picture, axes: Axes, reading: Reading, scale: ScalarMappable) -> None:
    """What the colours mean, right of the map."""
    box, width = axes.get_position(), picture.get_size_inches()[0]
    place = picture.add_axes((box.x1 + _BAR_GAP / width, box.y0, _BAR_WIDTH / width, box.height))
    bar = picture.colorbar(scale, cax=place)
    ticks = [share * scale.norm.vmax for share in _TICK_SHARES]  # type: ignore[operator]
    bar.set_ticks(ticks, labels=[reading.shown(tick) for tick in ticks])
    bar.ax.tick_params(labelsize=style.SMALL_POINTS, length=2, color=style.TICK)
    bar.outline.set_visible(False)
    bar.set_label(f"drop{f' ({reading.drop_unit.strip()})' if reading.drop_unit else ''}", fontsize=style.TEXT_POINTS)


def _title(picture: Picture, heading: str, details: str, key: str) -> None:
    width, height = picture.get_size_inches()
    left = picture.axes[0].get_position().x0
    lines = ((heading, 0.22, 11, "bold"), (details, 0.43, 9, "normal"), (key, 0.62, 9, "normal"))
    for text, below, size, weight in lines:
        line = picture.text(left, 1 - below / height, text, fontsize=size, fontweight=weight, va="center")
        line.set_parse_math(False)
        room = 0.95 * (1 - left) * width * picture.dpi
        while line.get_window_extent().width > room:
            text = text[:-1]
            line.set_text(f"{text}…")
