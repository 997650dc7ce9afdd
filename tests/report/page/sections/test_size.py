"""The chart of accuracy against size on the page of a study."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sensitivity.report.page.sections.size import size_chart
from sensitivity.study import read
from tests.made_studies import make_study

CURVES = {"INT8": [(1000.0, 1.2), (2000.0, 0.1), (3000.0, 0.0)]}


def test_a_share_that_is_predicted_below_zero_is_not_drawn() -> None:
    study = make_study([0.1, 1.1])  # the baseline is 78.5 %
    (group,) = size_chart(read(study), CURVES, None).groups
    assert [(mark.x, mark.y) for mark in group.marks] == [(2.0, pytest.approx(68.5)), (3.0, pytest.approx(78.5))]


def test_a_score_without_a_share_may_be_below_zero() -> None:
    study = replace(make_study([0.1, 1.1]), unit="dB")
    (group,) = size_chart(read(study), CURVES, None).groups
    assert len(group.marks) == 3
