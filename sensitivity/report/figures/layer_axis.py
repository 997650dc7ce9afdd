"""The axes of a figure with one position for each layer: its names below, a grid behind, a title and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from sensitivity.report import style
from sensitivity.report.figures.picture import Picture

_FEWEST_INCHES = 6.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFrame:
    """Sizes of a figure with one position for each layer, in inches.

    Attributes:
        layer: Width of a position.
        letter: Height of a letter of a layer's name, which stands upright below.
        left: Room left of the axes.
        right: Room right of them.
        above: Room above them.
        height: Height of the axes.
    """

    layer: float
    letter: float
    left: float
    right: float
    above: float
    height: float

    def axes_for(self, layers: Sequence[str]) -> tuple[Picture, Axes]:
        """An empty picture that has room for these names, and its axes."""
        inner = max(_FEWEST_INCHES, self.layer * len(layers))
        below = 0.3 + self.letter * max(map(len, layers))
        width, height = inner + self.left + self.right, self.height + below + self.above
        picture = Picture(width, height)
        return picture, picture.add_axes((self.left / width, below / height, inner / width, self.height / height))


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
