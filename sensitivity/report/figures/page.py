"""The page that panels of layers are drawn on: sizes, tick labels, stage bands, title and legend places, in inches."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from sensitivity.records import Layer
from sensitivity.report import style
from sensitivity.report.dip import stage_runs
from sensitivity.report.figures.picture import Picture

_LEFT, _BETWEEN, _EDGE = 0.85, 0.3, 0.12
_HEIGHT_ALONE, _HEIGHT_STACKED = 4.2, 2.6
_TITLE_HEIGHT, _STAGE_ROW = 0.62, 0.17
_MOST_STAGE_ROWS = 4
_LEAST_WIDTH, _LEAST_PITCH, _USUAL_PITCH, _USUAL_WIDTH = 5.4, 0.145, 0.22, 13.0
_LEGEND_OFFSET = 0.55


class Page:
    """A picture with panels below each other that share one x axis of layers.

    Attributes:
        picture: The figure.
        panels: Its axes, from top to bottom.
    """

    def __init__(self, layers: Sequence[Layer], panels: int, handles: Sequence[Line2D]) -> None:
        self._layers = layers
        count = len(layers)
        pitch = min(_USUAL_PITCH, max(_LEAST_PITCH, _USUAL_WIDTH / count))
        self._width = max(_LEAST_WIDTH, pitch * count)
        self._panel_height = _HEIGHT_ALONE if panels == 1 else _HEIGHT_STACKED
        self.picture = Picture(_LEFT + self._width, self._panel_height * panels)
        self.panels: list[Axes] = [self.picture.add_axes((0.1, 0.1, 0.5, 0.5)) for _ in range(panels)]
        for axes in self.panels:
            self._prepare(axes)
        self._write_layer_names(self._width / count)
        self._arrange(self._write_stage_names(), self._write_legend(handles))

    def title(self, heading: str, details: str) -> None:
        """A heading over the panels and a line of details below it."""
        width, height = self.picture.get_size_inches()
        for text, below, size, weight in ((heading, 0.22, 11, "bold"), (details, 0.43, 9, "normal")):
            place = _LEFT / width, 1 - below / height
            line = self.picture.text(*place, text, fontsize=size, fontweight=weight, va="center", parse_math=False)
            # letters are wider at the resolution of a saved file than at the figure's own
            room = 0.95 * (width - _LEFT - _EDGE) * self.picture.dpi
            while line.get_window_extent().width > room:
                text = text[:-1]
                line.set_text(f"{text}…")

    def _prepare(self, axes: Axes) -> None:
        axes.set_xlim(-0.7, len(self._layers) - 0.3)
        axes.set_xticks([])
        axes.tick_params(axis="y", labelsize=style.SMALL_POINTS, length=3, color=style.TICK)
        axes.grid(axis="y", color=style.GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(style.TICK)
        for number, (_, first, last) in enumerate(stage_runs(self._layers)):
            if number % 2 == 0:
                axes.axvspan(first - 0.5, last + 0.5, color=style.BAND, linewidth=0, zorder=0, gid="stage")

    def _write_layer_names(self, pitch: float) -> None:
        bottom = self.panels[-1]
        bottom.set_xticks(range(len(self._layers)))
        size = min(8.5, max(6.2, pitch * 72 * 0.62))
        names = [layer.name for layer in self._layers]
        bottom.set_xticklabels(names, rotation=90, fontsize=size, color=style.TEXT, parse_math=False)
        bottom.tick_params(axis="x", length=2, pad=4, color=style.TICK)

    def _write_stage_names(self) -> list[Text]:
        """Stage names over the first panel, each centred on its band; their rows are set by ``_arrange``."""
        top = self.panels[0]
        return [
            top.text(
                (first + last) / 2,
                1.0,
                stage,
                transform=top.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=style.SMALL_POINTS,
                color=style.QUIET,
                parse_math=False,
                gid="stage-name",
            )
            for stage, first, last in stage_runs(self._layers)
        ]

    def _write_legend(self, handles: Sequence[Line2D]) -> Legend:
        """To the right of the first panel and of the baseline's value."""
        return self.panels[0].legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(1.0 + _LEGEND_OFFSET / self._width, 1.0),
            borderaxespad=0.0,
            frameon=False,
            fontsize=style.SMALL_POINTS,
            handletextpad=0.5,
        )

    def _arrange(self, stage_names: list[Text], legend: Legend) -> None:
        """Sizes and places, from the texts' real extents: long names get room, close stage names rows of their own."""
        dpi = self.picture.dpi
        ticks = [label.get_window_extent().height for label in self.panels[-1].get_xticklabels()]
        below = max(ticks) / dpi + 0.1 + _EDGE
        figure_width = _LEFT + self._width + _LEGEND_OFFSET + legend.get_window_extent().width / dpi + _EDGE
        self.picture.set_size_inches(figure_width, self._panel_height)
        for axes in self.panels:
            axes.set_position((_LEFT / figure_width, 0.1, self._width / figure_width, 0.5))
        rows = stack([text.get_window_extent() for text in stage_names])
        if max(rows) >= _MOST_STAGE_ROWS:
            # so many long names hide more than they tell; every layer's own name begins with its stage
            for text in stage_names:
                text.remove()
            stage_names, rows = [], []
        above = _TITLE_HEIGHT + _STAGE_ROW * (max(rows, default=-1) + 1)
        panels = len(self.panels)
        height = below + panels * self._panel_height + (panels - 1) * _BETWEEN + above
        self.picture.set_size_inches(figure_width, height)
        for number, axes in enumerate(reversed(self.panels)):
            y = below + number * (self._panel_height + _BETWEEN)
            axes.set_position(
                (_LEFT / figure_width, y / height, self._width / figure_width, self._panel_height / height)
            )
        for text, row in zip(stage_names, rows, strict=True):
            text.set_y(1.0 + (0.03 + _STAGE_ROW * row) / self._panel_height)


def stack(boxes: Sequence[Bbox]) -> list[int]:
    """A row for each box from left to right, the lowest in which it touches no box before it."""
    ends: list[float] = []
    rows = []
    for box in boxes:
        row = next((number for number, end in enumerate(ends) if box.x0 > end + 4), len(ends))
        ends[row : row + 1] = [box.x1]
        rows.append(row)
    return rows
