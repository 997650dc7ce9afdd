"""Leaving groups out: quantiles as scipy's, errors as the textbook's, coverage on mAP with known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sensitivity.records.results.resampled import standard_error
from sensitivity.sweep.stopping.jackknife import deal, half_width, scores_without, student_quantile
from tests.sweep.mean_task import MeanTask


@pytest.mark.parametrize("freedom", [7, 9, 15, 19])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999, 0.9999])
def test_quantiles_of_students_t_are_those_of_scipy(level: float, freedom: int) -> None:
    assert student_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=0.005)


def test_the_standard_error_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(size=20)
    without = [np.delete(values, position).mean() for position in range(20)]
    assert standard_error(without) == pytest.approx(values.std(ddof=1) / np.sqrt(20), rel=1e-12)


def test_an_interval_reaches_as_far_as_students() -> None:
    values = np.random.default_rng(0).normal(size=20)
    without = [float(np.delete(values, position).mean()) for position in range(20)]
    reach = stats.t.ppf(0.975, 19) * values.std(ddof=1) / np.sqrt(20)
    assert half_width(without, 0.95) == pytest.approx(reach, rel=0.005)
    assert half_width([0.5] * 20, 0.95) is None, "no group moves the drop"
    assert np.isnan(half_width([*without[1:], math.nan], 0.95)), "the metric is no number without some group"


def test_images_are_dealt_into_groups_of_nearly_one_size() -> None:
    groups = deal(range(47))
    assert sorted(image for group in groups for image in group) == list(range(47))
    assert len(groups) == 20
    assert {len(group) for group in groups} == {2, 3}
    assert deal([4, 2, 9]) == [[4], [2], [9]]


def test_a_task_without_a_faster_way_is_scored_on_the_rest_of_the_images() -> None:
    task = MeanTask(6)
    predictions = {image: float(image) for image in range(6)}
    assert scores_without(task, predictions, [[0, 1], [5]]) == [(2 + 3 + 4 + 5) / 4, (0 + 1 + 2 + 3 + 4) / 5]


@pytest.mark.parametrize(("images", "share", "most"), [(8, 0.05, 80), (20, 0.05, 80), (50, 0.05, 80), (50, 0.2, 80)])
def test_a_loss_that_no_image_shows_gets_no_bounds_rather_than_none_to_speak_of(
    images: int, share: float, most: int
) -> None:
    """With bounds of zero width, two of three intervals of 8 images missed a loss that one image in twenty has."""
    draw, misses = np.random.default_rng(0), 0
    for _ in range(1000):
        losses = (draw.random(images) < share).astype(float)
        without = [np.delete(losses, group).mean() for group in deal(range(images))]
        half = half_width(without, 0.95)
        misses += half is not None and abs(losses.mean() - share) > half
    assert misses <= most, "of 1000 intervals of 95 %, with room for chance and for losses that are no bell curve"
