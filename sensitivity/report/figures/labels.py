"""Text beside points, placed so that no two texts overlap and as little as possible is covered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from sensitivity.report import style

Boxes = npt.NDArray[np.float64]
"""Boxes in pixels, one in each row: left, bottom, right, top."""

_STYLE: dict[str, Any] = {"fontsize": style.SMALL_POINTS, "linespacing": 1.1, "parse_math": False}
_GAP = 7.0  # pixels between a point and its label, where its mark is not larger
_MARGIN = 3.0  # pixels around a label that had better be free
_REACH = (0.0, 0.5, 1.2, 2.0, 3.0, 4.5, 6.5)  # how far to look for a free place, in heights of the text


@dataclass(frozen=True, slots=True)
class Label:
    """A text and the point it belongs to, in data coordinates."""

    x: float
    y: float
    text: str


class Pixel(NamedTuple):
    """A point in pixels."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a label could go, in pixels.

    Attributes:
        box: What the text would cover.
        leader: Line from the text to its point, or None where they are neighbours.
    """

    box: Bbox
    leader: tuple[Pixel, Pixel] | None


def place_labels(axes: Axes, labels: Sequence[Label], marks: Sequence[Bbox], *, gap: float = _GAP) -> list[Text]:
    """Draw each label near its point, inside the axes; a thin line leads to labels that had to move away.

    Every label tries places around its point, the nearest first, and takes the one that covers least; a place on
    another label or outside the axes is taken only where there is no other. The axes' limits must be final.

    Args:
        axes: Where to draw.
        labels: In order of importance: the first has the first choice.
        marks: Boxes in pixels that had better stay visible, such as markers and stems; corners in any order.
        gap: Pixels between a point and its label.
    """
    boxes = np.array([(*mark.min, *mark.max) for mark in marks]).reshape(-1, 4)
    placed: list[Place] = []
    drawn = []
    for label in labels:
        point = Pixel(*axes.transData.transform((label.x, label.y)))
        places = [Place(box, _leader(box, point, gap)) for box in _boxes(point, *_size(axes, label.text), gap)]
        own = _touched(Bbox([point, point]), boxes)
        costs = [_cost(place, axes, placed, boxes[own], boxes[~own]) + 0.05 * n for n, place in enumerate(places)]
        place = places[costs.index(min(costs))]
        placed.append(place)
        drawn.append(_draw(axes, label, place))
    return drawn


def _size(axes: Axes, text: str) -> tuple[float, float]:
    """Width and height in pixels."""
    probe = axes.text(0, 0, text, **_STYLE)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width, extent.height


def _boxes(point: Pixel, width: float, height: float, gap: float) -> list[Bbox]:
    """Places around a point, below it and the nearest first."""
    boxes = []
    for reach in _REACH:
        away = gap + reach * height
        beside = (-width / 2, away, -width - away, away / 2, -width - away / 2)
        for dy in (-height - away, -height / 2, away):
            for dx in beside:
                if abs(dx + width / 2) > width / 2 or dy != -height / 2:
                    boxes.append(Bbox.from_bounds(point.x + dx, point.y + dy, width, height))
    return boxes


def _leader(box: Bbox, point: Pixel, gap: float) -> tuple[Pixel, Pixel] | None:
    """A line from just outside the box to the point, or None where they are neighbours anyway."""
    around = box.padded(_MARGIN)  # or the line would touch the text
    nearest = Pixel(min(max(point.x, around.x0), around.x1), min(max(point.y, around.y0), around.y1))
    centred = abs(point.x - (box.x0 + box.x1) / 2) < box.width / 4
    near = gap * (2.0 if centred else 1.5)
    return None if hypot(nearest.x - point.x, nearest.y - point.y) < near else (nearest, point)


def _cost(place: Place, axes: Axes, placed: Iterable[Place], own: Boxes, others: Boxes) -> float:
    """How bad a place is.

    1000 for touching a label or leaving the axes, 50 for a line through a label, 5 for each mark touched, 1 for each
    mark so near that the label could be taken for its own and for each that the line crosses. A label may lie close to
    its own marker and stem, but not on them.
    """
    roomy, near = place.box.padded(_MARGIN), place.box.padded(3 * _MARGIN)
    inside = axes.bbox.x0 < roomy.x0 and roomy.x1 < axes.bbox.x1 and axes.bbox.y0 < roomy.y0 and roomy.y1 < axes.bbox.y1
    cost = 0.0 if inside else 1000.0
    for other in placed:
        cost += 1000.0 * roomy.overlaps(other.box) + 50.0 * (_crosses(place, other.box) + _crosses(other, roomy))
    cost += 5.0 * _touched(roomy, others).sum() + _touched(near, others).sum() + 5.0 * _touched(place.box, own).sum()
    if place.leader is not None:
        beside_line = others[_touched(Bbox(place.leader), others)]
        cost += sum(_crosses(place, Bbox.from_extents(*mark)) for mark in beside_line)
    return float(cost)


def _touched(box: Bbox, marks: Boxes) -> npt.NDArray[np.bool_]:
    """For each mark, whether the box overlaps it."""
    low, high = np.minimum(box.p0, box.p1), np.maximum(box.p0, box.p1)
    touched: npt.NDArray[np.bool_] = ((marks[:, :2] <= high) & (marks[:, 2:] >= low)).all(axis=1)
    return touched


def _crosses(place: Place, box: Bbox) -> bool:
    """Whether the line to the place's text goes through the box."""
    return place.leader is not None and Path(place.leader).intersects_bbox(box)


def _draw(axes: Axes, label: Label, place: Place) -> Text:
    to_data = axes.transData.inverted().transform
    if place.leader is not None:
        ends = to_data(place.leader)
        axes.plot(ends[:, 0], ends[:, 1], color=style.QUIET, linewidth=0.6, zorder=4.5, gid="leader")
    x, y = to_data(((place.box.x0 + place.box.x1) / 2, (place.box.y0 + place.box.y1) / 2))
    return axes.text(x, y, label.text, ha="center", va="center", zorder=6, gid="label", **_STYLE)
