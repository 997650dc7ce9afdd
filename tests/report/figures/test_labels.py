from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from sensitivity.report.figures.labels import Label, place_labels
from sensitivity.report.figures.picture import Picture


def axes() -> Axes:
    drawn = Picture(8, 5).add_axes((0.1, 0.1, 0.8, 0.8))
    drawn.set(xlim=(0, 1), ylim=(0, 1))
    return drawn


inside = st.floats(0.05, 0.95)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(inside, inside), max_size=6))
def test_labels_never_overlap_and_stay_inside_wherever_the_points_are(points: list[tuple[float, float]]) -> None:
    where = axes()
    texts = place_labels(where, [Label(x, y, f"stage{i}:0:0\ndrop 1.00") for i, (x, y) in enumerate(points)], [])
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) == len(points)
    assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]
    assert all(where.bbox.contains(box.x0, box.y0) and where.bbox.contains(box.x1, box.y1) for box in boxes)


def test_a_label_sits_right_below_its_point_where_it_can() -> None:
    where = axes()
    (text,) = place_labels(where, [Label(0.5, 0.5, "here")], [])
    box, (x, y) = text.get_window_extent(), where.transData.transform((0.5, 0.5))
    assert abs((box.x0 + box.x1) / 2 - x) < 1
    assert 0 < y - box.y1 < 15
    assert not where.findobj(lambda artist: artist.get_gid() == "leader")


def test_a_label_keeps_off_marks_and_a_line_leads_to_it() -> None:
    where = axes()
    x, y = where.transData.transform((0.5, 0.5))
    wall = [Bbox.from_extents(x - 60, y - 60, x + 60, y - 10), Bbox.from_extents(x - 60, y + 10, x + 60, y + 60)]
    wall += [Bbox.from_extents(x - 60, y - 60, x - 10, y + 60), Bbox.from_extents(x + 10, y - 60, x + 60, y + 60)]
    (text,) = place_labels(where, [Label(0.5, 0.5, "here")], wall)
    assert not [1 for mark in wall if mark.overlaps(text.get_window_extent())]
    (leader,) = where.findobj(lambda artist: artist.get_gid() == "leader")
    ends = where.transData.transform(leader.get_xydata())
    assert min(abs(ends - (x, y)).sum(axis=1)) < 1
    box = text.get_window_extent()
    assert not any(box.padded(2).contains(*end) for end in ends), "the line touches the text"


def test_a_label_in_a_corner_stays_inside() -> None:
    where = axes()
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        (text,) = place_labels(where, [Label(*corner, "a long label")], [])
        box = text.get_window_extent()
        assert where.bbox.contains(box.x0, box.y0)
        assert where.bbox.contains(box.x1, box.y1)
