"""The style of all pictures and pages: colours, marks and text sizes, for matplotlib and for the browser alike.

Colours are near Okabe and Ito's, moved until each has a contrast of at least 3 to 1 to its page and those that share a
picture differ under every common colour deficiency: ``tests/markup/test_ink.py`` holds the figures. No fact is told by
colour alone. What pages of paper and of light share, such as the colour of a line, is in ``markup.ink``.
"""

from __future__ import annotations

from sensitivity.markup.ink import PAGE, Ink
from sensitivity.records.results.diagnosis import DamageCause
from sensitivity.records.results.tuned import StepKind
from sensitivity.records.results.verdict import Verdict
from sensitivity.records.results.verification import LayerStatus

KIND_INKS = {
    "independent": Ink("#5c5c5c", "#cdcac9"),
    "res": Ink("#d08100", "#f2ce46"),
    "fmb": Ink("#0072b2", "#5194cb"),
    "mb": Ink("#be4106", "#f08548"),
    "csp": Ink("#8f85fa", "#9dd9fc"),
    "att": Ink("#009e73", "#2cc79a"),
}
OTHER_INK = Ink("#b781af", "#e39ec8")

# in order of precedence: a layer that bears several flags is drawn by the first
FLAG_SHAPES = {"attention-pointwise": "diamond", "exit": "triangle-down", "depthwise": "square"}
OTHER_SHAPE = "circle"
SHAPE_WORDS = {**FLAG_SHAPES, "other layers": OTHER_SHAPE}

STEP_INKS = {
    StepKind.CANDIDATE: KIND_INKS["fmb"],
    StepKind.BUDGET: OTHER_INK,
    StepKind.CURE: KIND_INKS["att"],
    StepKind.PROTECT: KIND_INKS["mb"],
    StepKind.RELEASE: KIND_INKS["res"],
}
STEP_SHAPES = {
    StepKind.CANDIDATE: "circle",
    StepKind.BUDGET: "square",
    StepKind.CURE: "diamond",
    StepKind.PROTECT: "triangle-down",
    StepKind.RELEASE: "triangle-up",
}
STEP_WORDS = {
    StepKind.CANDIDATE: "one recipe for all layers",
    StepKind.BUDGET: "least noise within the budget",
    StepKind.CURE: "other recipes for some layers",
    StepKind.PROTECT: "some layers back in float",
    StepKind.RELEASE: "a protected layer quantized again",
}
STATUS_LOOKS = {
    LayerStatus.VERIFIED: (Ink("#1b7f5c", "#2cc79a"), "circle"),
    LayerStatus.OTHER_PRECISION: (Ink("#b3261e", "#ff897f"), "square"),
    LayerStatus.DISAGREES: (Ink("#b3261e", "#ff897f"), "triangle-down"),
    LayerStatus.AGREES_IN_FLOAT: (KIND_INKS["csp"], "circle"),
    LayerStatus.IN_FLOAT: (Ink("#6d707a", "#969ca2"), "x-thin"),
    LayerStatus.LEFT_IN_FLOAT: (Ink("#6d707a", "#969ca2"), "cross-thin"),
    LayerStatus.NOT_CHECKED: (KIND_INKS["res"], "x-thin"),
    LayerStatus.SIMULATED_ONLY: (OTHER_INK, "x-thin"),
}
CAUSE_INKS = {
    DamageCause.OUTLIERS: KIND_INKS["mb"],
    DamageCause.ONE_SIDED: KIND_INKS["fmb"],
    DamageCause.UNEVEN_CHANNELS: KIND_INKS["res"],
    DamageCause.WEIGHTS: OTHER_INK,
    DamageCause.BIAS_SHIFT: KIND_INKS["csp"],
    DamageCause.SATURATION: Ink("#5e298b", "#c2a0fb"),
}
CAUSE_SHAPES = {
    DamageCause.OUTLIERS: "triangle-up",
    DamageCause.ONE_SIDED: "triangle-down",
    DamageCause.UNEVEN_CHANNELS: "diamond",
    DamageCause.WEIGHTS: "square",
    DamageCause.BIAS_SHIFT: "cross",
    DamageCause.SATURATION: "x",
}
CURED_INK = STATUS_LOOKS[LayerStatus.VERIFIED][0]
SERIES_INKS = tuple(KIND_INKS[kind] for kind in ("fmb", "res", "att", "csp", "independent"))
"""Colours of curves that are of no kind, one after the other."""

DROP_COLOURS = ("#f5f5f5", "#fdd49e", "#fc8d59", "#d7301f", "#6b0000")
"""From no drop to the largest one: lighter to darker, so that grey tells the same."""
GAIN_COLOUR, NO_DROP_COLOUR = "#c6dbef", "#d0d0d0"

ENGINE_INK = Ink("#7b3294", "#c58ad8")

# what pictures, which are drawn on white paper, have in common
TEXT, QUIET, GRID, BASELINE, FAILED = (PAGE[name].light for name in ("text", "quiet", "line", "baseline", "failed"))
TICK, BAND, PALE = "#999999", "#f4f4f4", "#b9b9bd"
TITLE_POINTS, TEXT_POINTS, SMALL_POINTS, LAYER_POINTS = 11, 9, 8, 7


def kind_ink(kind: str) -> Ink:
    """The colour of a kind of layer; all kinds that are not the library's own share one."""
    return KIND_INKS.get(kind, OTHER_INK)


def shape_of(flags: frozenset[str]) -> str:
    """The mark of the most telling flag of a layer."""
    return next((shape for flag, shape in FLAG_SHAPES.items() if flag in flags), OTHER_SHAPE)


def verdict_words(tolerance: str) -> dict[Verdict, str]:
    """What each verdict says.

    Args:
        tolerance: The drop that does not matter, with its unit.
    """
    return {
        Verdict.DIP: f"dip: loses more than {tolerance}",
        Verdict.HARMLESS: f"harmless: loses {tolerance} at most",
        Verdict.UNDECIDED: "undecided on so few images",
    }
