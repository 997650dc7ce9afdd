"""Charts of points that each tell about themselves, linked to the rows of a table: what a page's script draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sensitivity.markup.elements import Markup, element, joined
from sensitivity.markup.ink import Ink
from sensitivity.report.page.legend import entry
from sensitivity.report.page.numbers import finite


@dataclass(frozen=True, slots=True)
class Mark:
    """One point.

    Attributes:
        x: Where it stands.
        y: Likewise.
        lines: What it tells about itself; the first line is its name.
        row: Place of its row in the table; None where it has none.
        ends: Ends of its interval along x; None where there is none.
    """

    x: float | None
    y: float | None
    lines: Sequence[str]
    row: int | None = None
    ends: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Points of one look.

    Attributes:
        words: What they have in common, for the legend, which has an entry for each text and look.
        ink: Their colour.
        shape: Their mark.
        marks: The points.
        joined: Whether a line of steps goes through them.
        large: Whether they are drawn larger than others.
    """

    words: str
    ink: Ink
    shape: str
    marks: Sequence[Mark]
    joined: bool = False
    large: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis.

    Attributes:
        title: What it shows, with the unit.
        ticks: Numbers and their names, where these are not the numbers themselves.
        reversed: Whether numbers grow to the left, or downwards.
        logarithmic: Whether equal steps are equal factors.
    """

    title: str
    ticks: Sequence[tuple[float, str]] = ()
    reversed: bool = False
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A line across the chart.

    Attributes:
        axis: The axis that ``at`` is a number of.
        at: Where it stands.
        words: What it means.
        dashed: Whether it is a limit rather than a measured number.
    """

    axis: Literal["x", "y"]
    at: float
    words: str
    dashed: bool = True


@dataclass(frozen=True, slots=True)
class PointChart:
    """A chart of points.

    Attributes:
        anchor: Its name in the page; a table ``data-points`` of this name is linked to it.
        label: What it shows, for those who do not see it.
        x: The horizontal axis.
        y: The vertical axis.
        groups: The points.
        levels: Lines across it.
        diagonal: Whether a line shows where both axes are equal.
        rows: Rows of text that the chart's height has to hold; None for the usual height.
    """

    anchor: str
    label: str
    x: Axis
    y: Axis
    groups: Sequence[Group]
    levels: Sequence[Level] = field(default=())
    diagonal: bool = False
    rows: int | None = None

    def data(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            "x": _axis(self.x),
            "y": _axis(self.y),
            "groups": [_group(group) for group in self.groups],
            "levels": [
                {"axis": level.axis, "at": finite(level.at), "words": level.words, "dashed": level.dashed}
                for level in self.levels
                if finite(level.at) is not None
            ],
            "diagonal": self.diagonal,
        }

    def markup(self) -> Markup:
        """The place of the chart, what it tells of a point, and its legend."""
        height = None if self.rows is None else f"height: {7 + 1.75 * self.rows:g}rem"
        place = element(
            "div", id=self.anchor, class_="chart points", style=height, tabindex=0, role="application",
            aria_label=self.label, aria_describedby=f"{self.anchor}-help",
        )  # fmt: skip
        help_text = element(
            "p", "Point at a mark, or walk with the arrow keys, to read about it.", id=f"{self.anchor}-help",
            class_="said", aria_live="polite",
        )  # fmt: skip
        entries = dict.fromkeys(_entry(group) for group in self.groups if group.marks)
        legend = element("ul", *entries, class_="legend", aria_label="Legend")
        return joined(place, help_text, *([legend] if entries else []))


def _axis(axis: Axis) -> dict[str, Any]:
    return {
        "title": axis.title,
        "ticks": [[finite(number), name] for number, name in axis.ticks],
        "reversed": axis.reversed,
        "logarithmic": axis.logarithmic,
    }


def _group(group: Group) -> dict[str, Any]:
    marks = [mark for mark in group.marks if finite(mark.x) is not None and finite(mark.y) is not None]
    return {
        "words": group.words,
        "ink": group.ink.plain(),
        "shape": group.shape,
        "joined": group.joined,
        "large": group.large,
        "marks": [
            {
                "x": finite(mark.x),
                "y": finite(mark.y),
                "row": mark.row,
                "ends": _ends(mark.ends),
                "lines": list(mark.lines),
            }
            for mark in marks
        ],
    }


def _ends(ends: tuple[float, float] | None) -> list[float | None] | None:
    numbers = None if ends is None else [finite(end) for end in ends]
    return None if numbers is None or None in numbers else numbers


def _entry(group: Group) -> Markup:
    return entry(group.words, group.shape, "inked", group.ink)
