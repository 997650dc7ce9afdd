"""How layers are drawn: a colour for each kind, a shape for each flag that matters, a filling for each verdict."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from sensitivity.markup.ink import PAGE
from sensitivity.records import Layer
from sensitivity.records.results.verdict import Verdict
from sensitivity.report import style

_MARKERS = {"diamond": "D", "triangle-down": "v", "square": "s", "circle": "o"}
MARKER_SIZES = {"D": 4.6, "v": 6.4, "s": 5.0, "o": 5.2}  # points; of about equal weight to the eye

GREY = style.TEXT
INTERVAL_COLOUR = PAGE["interval"].light
FAILED_COLOUR, BASELINE_COLOUR = style.FAILED, style.BASELINE
PALE = 0.45  # share of its own colour in the marker of a harmless layer


def colour_of(layer: Layer) -> str:
    """The colour of its kind."""
    return style.kind_ink(layer.kind).light


def marker_of(layer: Layer) -> str:
    """The marker of its most telling flag."""
    return _MARKERS[style.shape_of(layer.flags)]


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
    kinds = sorted(
        colours, key=lambda kind: (list(style.KIND_INKS).index(kind) if kind in style.KIND_INKS else 99, kind)
    )
    handles = [_handle(kind, color=colours[kind], marker="_", markersize=9, markeredgewidth=4) for kind in kinds]
    markers = {marker_of(layer) for layer in layers}
    words = {_MARKERS[shape]: word for word, shape in style.SHAPE_WORDS.items()}
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
    words = style.verdict_words(tolerance)
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
