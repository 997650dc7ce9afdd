"""How layers are drawn: a colour for each kind, a shape for each flag that matters, a filling for each verdict."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from sensitivity.records import Layer
from sensitivity.records.verdict import Verdict

# Okabe and Ito's palette, distinct under the common colour deficiencies and in grey
KIND_COLOURS = {
    "independent": "#5c5c5c",
    "res": "#e69f00",
    "fmb": "#0072b2",
    "mb": "#d55e00",
    "csp": "#56b4e9",
    "att": "#009e73",
}
OTHER_COLOUR = "#cc79a7"

# in order of precedence: a layer that bears several flags is drawn by the first
FLAG_MARKERS = {"attention-pointwise": "D", "exit": "v", "depthwise": "s"}
OTHER_MARKER = "o"
MARKER_SIZES = {"D": 4.6, "v": 6.4, "s": 5.0, "o": 5.2}  # points; of about equal weight to the eye

GREY, INTERVAL_COLOUR = "#444444", "#b4b4b4"
PALE = 0.45  # share of its own colour in the marker of a harmless layer
FAILED_COLOUR = "#b00020"
BASELINE_COLOUR = "#222222"


def colour_of(layer: Layer) -> str:
    """The colour of its kind."""
    return KIND_COLOURS.get(layer.kind, OTHER_COLOUR)


def marker_of(layer: Layer) -> str:
    """The marker of its most telling flag."""
    return next((marker for flag, marker in FLAG_MARKERS.items() if flag in layer.flags), OTHER_MARKER)


def filling_of(verdict: Verdict | None, colour: str) -> dict[str, Any]:
    """How a marker shows its verdict: filled for a dip, hollow for undecided, pale for harmless.

    A layer without a verdict (all but one were perturbed) is filled.
    """
    if verdict is Verdict.UNDECIDED:
        return {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.1}
    red, green, blue = (PALE * part + 1.0 - PALE for part in to_rgb(colour))
    face = to_hex((red, green, blue)) if verdict is Verdict.HARMLESS else colour
    return {"markerfacecolor": face, "markeredgecolor": "white", "markeredgewidth": 0.5}


def layer_handles(layers: Iterable[Layer]) -> list[Line2D]:
    """Entries for the kinds and markers that are drawn."""
    layers = list(layers)
    colours = {layer.kind: colour_of(layer) for layer in layers}
    kinds = sorted(colours, key=lambda kind: (list(KIND_COLOURS).index(kind) if kind in KIND_COLOURS else 99, kind))
    handles = [_handle(kind, color=colours[kind], marker="_", markersize=9, markeredgewidth=4) for kind in kinds]
    markers = {marker_of(layer) for layer in layers}
    words = {**{marker: flag for flag, marker in FLAG_MARKERS.items()}, OTHER_MARKER: "other layers"}
    outline = {"color": GREY, "markerfacecolor": "none"}
    return handles + [
        _handle(word, marker=marker, markersize=MARKER_SIZES[marker], **outline)
        for marker, word in words.items()
        if marker in markers
    ]


def verdict_handles(verdicts: Container[Verdict], tolerance: str) -> list[Line2D]:
    """Entries for the verdicts that are drawn.

    Args:
        verdicts: Those.
        tolerance: The drop that does not matter, with its unit.
    """
    words = {
        Verdict.DIP: f"dip: loses more than {tolerance}",
        Verdict.HARMLESS: f"harmless: loses {tolerance} at most",
        Verdict.UNDECIDED: "undecided on so few images",
    }
    return [
        _handle(word, marker="o", markersize=6, **filling_of(verdict, GREY))
        for verdict, word in words.items()
        if verdict in verdicts
    ]


def other_handles(*, intervals: str, failed: bool) -> list[Line2D]:
    """Entries for intervals and failed layers.

    Args:
        intervals: What the intervals are, in words; empty where none are drawn.
        failed: Whether some layers have no result.
    """
    handles = []
    if intervals:
        handles.append(_handle(intervals, color=INTERVAL_COLOUR, marker="|", markersize=11, markeredgewidth=1.4))
    if failed:
        handles.append(_handle("no result", color=FAILED_COLOUR, marker="x", markersize=6))
    return handles


def _handle(label: str, **style: Any) -> Line2D:
    return Line2D([], [], linestyle="none", label=label, **style)
