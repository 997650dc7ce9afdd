"""Which boxes stay, are lost and are new, for boxes whose overlap is known by hand."""

from __future__ import annotations

import pytest

from sensitivity.records.results.changed_images import SeenBox
from sensitivity.report.box_changes import box_changes, overlap


def box(label: str, *corners: float, score: float = 0.5) -> SeenBox:
    left, top, right, bottom = corners
    return SeenBox(label, score, (left, top, right, bottom))


def test_the_overlap_is_the_intersection_over_the_union() -> None:
    assert overlap(box("cat", 0, 0, 10, 10), box("cat", 5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert overlap(box("cat", 0, 0, 10, 10), box("cat", 20, 20, 30, 30)) == 0.0
    assert overlap(box("cat", 3, 3, 3, 3), box("cat", 3, 3, 3, 3)) == 0.0


def test_boxes_of_one_class_that_overlap_by_half_are_one_object() -> None:
    before = [box("cat", 0, 0, 10, 10), box("dog", 0, 0, 10, 10), box("cat", 50, 50, 60, 60)]
    after = [box("cat", 50, 50, 60, 65), box("cat", 0, 0, 10, 5), box("cat", 0, 0, 10, 4)]
    changes = box_changes(before, after)
    assert changes.pairs == ((before[0], after[1]), (before[2], after[0]))
    assert changes.lost == (before[1],)
    assert changes.new == (after[2],)


def test_a_box_takes_the_nearest_of_several_and_each_is_taken_once() -> None:
    before = [box("cat", 0, 0, 10, 10), box("cat", 0, 0, 10, 9)]
    after = [box("cat", 0, 0, 10, 9), box("cat", 0, 0, 10, 10)]
    assert box_changes(before, after).pairs == ((before[0], after[1]), (before[1], after[0]))
    assert box_changes(before, after[:1]).lost == (before[1],)
