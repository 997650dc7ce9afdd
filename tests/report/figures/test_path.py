"""The picture of a search: nothing of it is cut off, however many steps there are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sensitivity.records.results.tuned import StepKind
from sensitivity.report.figures.path import path
from tests.report.page.made import TUNED


@pytest.mark.parametrize("count", [1, 4, 40])
def test_the_legend_is_inside_the_picture_and_below_the_numbers(count: int) -> None:
    kinds = list(StepKind)
    steps = tuple(replace(TUNED.steps[1], kind=kinds[number % len(kinds)]) for number in range(count))
    picture = path(replace(TUNED, steps=steps))
    axes = picture.axes[0]
    legend = axes.get_legend()
    assert legend is not None
    box, whole = legend.get_window_extent(), picture.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0
    assert box.y1 <= min(label.get_window_extent().y0 for label in axes.get_xticklabels())
