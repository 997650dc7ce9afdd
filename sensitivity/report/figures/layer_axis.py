"""The axes of a figure with one position for each layer: its names below, a grid behind, a title and a legend."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from sensitivity.report import style


def draw_layer_axis(axes: Axes, layers: Sequence[str], *, ylabel: str, ylabel_size: float) -> None:
    """Name every layer below the axes, upright, and draw light lines at the values on the left."""
    axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=style.LAYER_POINTS, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=ylabel_size)
    axes.tick_params(axis="y", labelsize=style.SMALL_POINTS, color=style.TICK)
    axes.tick_params(axis="x", color=style.TICK)
    axes.grid(color=style.GRID, linewidth=0.6, axis="y")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_title(axes: Axes, title: str) -> None:
    """Write what the figure says above its left end."""
    axes.set_title(title, fontsize=style.TITLE_POINTS, fontweight="bold", loc="left", pad=10, parse_math=False)


def draw_legend(axes: Axes, handles: Sequence[Artist] | None = None) -> None:
    """Put a legend right of the axes: of these handles, or of what was drawn with a label."""
    keywords = {} if handles is None else {"handles": handles}
    axes.legend(
        **keywords,
        fontsize=style.SMALL_POINTS,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.02),
        borderaxespad=0.5,
    )
