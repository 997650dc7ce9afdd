"""Kinds of objects that few images show: their intervals hold the drop of all images, and nothing else is widened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import sensitivity as sv
from sensitivity.records.results.resampled import standard_error, total_error
from sensitivity.sweep.stopping.jackknife import HALVINGS, Parts, groups_and_halves, growth, half_width, scores_of_parts
from sensitivity.sweep.stopping.judge import Samples
from tests.sweep.mean_task import MeanTask
from tests.sweep.stopping.rare_kinds import Known, RareKinds


def test_intervals_of_a_stop_hold_the_drop_of_all_images_where_most_kinds_are_rare() -> None:
    """600 kinds in 6000 images, of which 300 are seen; every look of nine may be wrong in 5 % of the cases."""
    task, draw = RareKinds(images=6000, kinds=600, layers=3), np.random.default_rng(1)
    before, *after = (task.score(dict.fromkeys(range(6000), layer))["AP"] for layer in range(4))
    stop = sv.Confidence(tolerance=1e-6, level=1 - 9 * 0.05, minimum_images=300)
    held = 0
    for _ in range(25):
        images = tuple(draw.permutation(6000)[:300].tolist())
        for layer in (1, 2, 3):
            judge: Any = Samples(stop, task, [layer], Known(images))  # type: ignore[list-item, arg-type]
            judge.take(images)
            estimate = judge.estimate(layer)
            held += estimate.low <= before - after[layer - 1] <= estimate.high
    assert held >= 70, "of 75"


def test_a_drop_on_all_images_is_exact_however_rare_the_kinds() -> None:
    task = RareKinds(images=60, kinds=40, layers=1)
    images = tuple(range(60))
    judge: Any = Samples(sv.Confidence(tolerance=1.0, minimum_images=60), task, [1], Known(images))  # type: ignore[list-item, arg-type]
    judge.take(images)
    estimate = judge.estimate(1)
    assert estimate.low == estimate.drop == estimate.high


def test_a_mean_has_no_shift_whatever_the_sizes_of_the_halves() -> None:
    task, draw = MeanTask(47), np.random.default_rng(0)
    predictions = dict(enumerate(draw.standard_normal(47).tolist()))
    parts = Parts.of(range(47), 20, HALVINGS)
    assert {len(first) for first, _ in parts.halves} <= set(range(20, 28))
    assert all(sorted(first + second) == list(range(47)) for first, second in parts.halves)
    whole, without, shifts = parts.read(scores_of_parts(task, predictions, parts))
    assert whole == pytest.approx(np.mean(list(predictions.values())))
    assert len(without) == 20
    assert shifts == pytest.approx([0.0] * HALVINGS, abs=1e-15)


def test_a_task_without_rare_kinds_is_not_halved_and_its_interval_is_that_of_the_spread() -> None:
    task = MeanTask(40)
    parts = groups_and_halves(task, dict.fromkeys(range(40), 0.5))
    assert parts.halves == []
    assert len(parts.left_out) == 21
    assert parts.read([0.25] * 21) == (0.25, (0.25,) * 20, ())
    assert growth(task, {0: 0.5}) == 0.0
    without = np.random.default_rng(0).normal(size=20).tolist()
    assert total_error(without, ()) == standard_error(without)
    assert half_width(without, 0.95, (0.0, 0.0)) == half_width(without, 0.95)
    assert half_width(without, 0.95, (10.0, -10.0)) > 1.5 * half_width(without, 0.95)


def test_the_error_is_that_by_chance_and_that_by_more_images_together() -> None:
    without = np.random.default_rng(0).normal(size=20).tolist()
    error = total_error(without, (3.0, -4.0), spread=0.5, growth=2.0)
    assert error == pytest.approx(math.hypot(0.5 * standard_error(without), 2 * math.sqrt(12.5)))


def test_halves_on_which_the_metric_is_no_number_tell_nothing() -> None:
    parts = Parts.of(range(8), 8, 2)
    values = [1.0] * 9
    assert parts.read([*values, math.nan, 2.0, 1.0, 2.0])[2] == (0.5,)
    (nothing,) = parts.read([*values, math.nan, 2.0, 1.0, math.nan])[2]
    assert math.isnan(nothing)
    assert math.isnan(half_width([1.0, 2.0], 0.95, (nothing,)) or 0.0)


class Picky(MeanTask):
    """Its metric fails on few images."""

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        if len(predictions) < 10:
            raise ZeroDivisionError
        return super().score(predictions)


def test_a_metric_that_fails_on_halves_keeps_what_it_is_without_groups() -> None:
    predictions = dict.fromkeys(range(16), 0.5)
    scores = scores_of_parts(Picky(16), predictions, Parts.of(range(16), 8, 1))
    assert scores[:9] == [0.5] * 9
    assert np.isnan(scores[9:]).all()
    with pytest.raises(ZeroDivisionError):
        scores_of_parts(Picky(16), predictions, Parts.of(range(16), 1, 1))


@pytest.mark.parametrize(("counts", "few"), [([8, 9, 200], 0.0), ([0, 7, 8, 8], 0.5), ([1, 2, 0], 1.0)])
def test_rare_kinds_may_shift_a_drop_with_every_doubling_and_others_as_one_over_the_images(
    counts: list[int], few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = RareKinds(images=400, kinds=3, layers=1)
    monkeypatch.setattr(task, "images_by_kind", lambda predictions: counts)
    assert growth(task, dict.fromkeys(range(50), 0)) == pytest.approx((1 - few) * (1 - 50 / 400) + few * 3)
    assert growth(task, dict.fromkeys(range(400), 0)) == 0.0
