"""How layers are drawn: a colour for each kind, a marker for each flag that matters, and their legend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.lines import Line2D

from sensitivity.records import Layer

# Okabe and Ito's palette, distinct under the common colour deficiencies and in grey
KIND_COLOURS = {
    "independent": "#5c5c5c",
    "res": "#e69f00",
    "fmb": "#0072b2",
    "mb": "#d55e00",
    "att": "#009e73",
}
OTHER_COLOUR = "#cc79a7"

# in order of precedence: a layer that bears several flags is drawn by the first
FLAG_MARKERS = {"attention-pointwise": "D", "exit": "v", "depthwise": "s"}
OTHER_MARKER = "o"
MARKER_SIZES = {"D": 4.6, "v": 6.4, "s": 5.0, "o": 5.2}  # points; of about equal weight to the eye

FAILED_COLOUR = "#b00020"
BASELINE_COLOUR = "#222222"


def colour_of(layer: Layer) -> str:
    """The colour of its kind."""
    return KIND_COLOURS.get(layer.kind, OTHER_COLOUR)


def marker_of(layer: Layer) -> str:
    """The marker of its most telling flag."""
    return next((marker for flag, marker in FLAG_MARKERS.items() if flag in layer.flags), OTHER_MARKER)


def legend_handles(layers: Iterable[Layer], *, failed: bool, whiskers: bool, meaning: str = "") -> list[Line2D]:
    """Entries for the kinds and markers that are drawn, and for failed layers and intervals if there are any.

    Args:
        layers: The layers that are drawn.
        failed: Whether some have no result.
        whiskers: Whether some have an interval.
        meaning: What the intervals hold, in words separated by commas.
    """
    layers = list(layers)
    colours = {layer.kind: colour_of(layer) for layer in layers}
    kinds = sorted(colours, key=lambda kind: (list(KIND_COLOURS).index(kind) if kind in KIND_COLOURS else 99, kind))
    handles = [_handle(kind, color=colours[kind], marker="_", markersize=9, markeredgewidth=4) for kind in kinds]
    markers = {marker_of(layer) for layer in layers}
    words = {**{marker: flag for flag, marker in FLAG_MARKERS.items()}, OTHER_MARKER: "other layers"}
    for marker, word in words.items():
        if marker in markers:
            handles.append(
                _handle(word, color="#444444", marker=marker, markersize=MARKER_SIZES[marker], markerfacecolor="none")
            )
    if whiskers:
        words_of_interval = "\n".join(["interval of the drop", *filter(None, meaning.split(", "))])
        handles.append(_handle(words_of_interval, color="#444444", marker="|", markersize=11))
    if failed:
        handles.append(_handle("no result", color=FAILED_COLOUR, marker="x", markersize=6))
    return handles


def _handle(label: str, **style: Any) -> Line2D:
    return Line2D([], [], linestyle="none", label=label, **style)
