from __future__ import annotations

import math

import numpy as np
import pytest

from sensitivity.tasks.average_precision.curves import Counted, Curves
from sensitivity.tasks.average_precision.ground_truth import Matches
from sensitivity.tasks.average_precision.matching import ALL_CRITERIA


def matches(fates: str, categories: list[int] | None = None, ranks: list[int] | None = None) -> Matches:
    """One letter a detection: t(rue), f(alse), i(gnored), in all criteria."""
    criteria = {letter: np.where(np.array(list(fates)) == letter, ALL_CRITERIA, np.uint64(0)) for letter in "ti"}
    number = len(fates)
    return Matches(
        np.arange(number),
        np.array(categories or [0] * number, int),
        np.array(ranks if ranks is not None else range(number), int),
        criteria["t"],
        criteria["i"],
    )


def curves(table: Matches, objects: np.ndarray, size: str, *, limits: tuple[int, ...]) -> Curves:
    return Counted(table, size, limits=limits).curves(objects)


def test_precision_is_the_best_at_this_recall_or_beyond() -> None:
    curve = curves(matches("tfiftt"), np.array([4]), "all", limits=(100,))
    # after the hits: 1/1 at recall .25, 2/4 at .50, 3/5 at .75; ignored ones do not count
    expected = [1.0] * 26 + [0.6] * 50 + [0.0] * 25
    assert curve.precision.shape == (10, 1, 101)
    for row in curve.precision[:, 0]:
        assert row.tolist() == pytest.approx(expected, abs=1e-15)
    assert curve.average_precision() == pytest.approx(np.mean(expected), abs=1e-15)
    assert curve.recall[100].tolist() == [[0.75]] * 10


def test_a_false_positive_before_the_first_hit_lowers_the_precision_at_recall_zero() -> None:
    assert curves(matches("ft"), np.array([1]), "all", limits=(1,)).precision[0, 0].tolist() == pytest.approx(
        [0.5] * 101
    )
    assert curves(matches("it"), np.array([1]), "all", limits=(1,)).precision[0, 0].tolist() == pytest.approx(
        [1.0] * 101
    )


def test_categories_are_counted_apart_and_those_without_objects_left_out() -> None:
    table = matches("fftfttff", [0, 0, 1, 1, 2, 2, 2, 3])
    several = curves(table, np.array([1, 0, 2, 0, 5]), "all", limits=(100,))
    assert several.categories.tolist() == [0, 2, 4]
    assert several.precision[:, :, 0].tolist() == [[0.0, 1.0, 0.0]] * 10
    assert several.recall[100].tolist() == [[0.0, 1.0, 0.0]] * 10
    assert several.average_recall(100) == pytest.approx(1 / 3)
    chosen = np.array([True, True, True, False, False])
    assert several.average_precision(among=chosen) == pytest.approx(0.5)
    assert math.isnan(several.average_precision(among=~chosen & (np.arange(5) < 4)))


def test_recall_is_read_at_each_limit() -> None:
    table = matches("tttf", ranks=[0, 1, 0, 1])
    assert {limit: row[0, 0] for limit, row in curves(table, np.array([4]), "all", limits=(1, 2)).recall.items()} == {
        1: 0.5,
        2: 0.75,
    }


def test_one_iou_threshold_can_be_asked_for() -> None:
    only_two = Matches(
        np.arange(1), np.zeros(1, int), np.zeros(1, int), np.array([0b11], np.uint64), np.zeros(1, np.uint64)
    )
    curve = curves(only_two, np.array([1]), "all", limits=(100,))
    assert curve.average_precision(iou=0.5) == pytest.approx(1.0)
    assert curve.average_precision(iou=0.75) == 0.0
    assert curve.average_precision() == pytest.approx(0.2)


def test_nothing_to_find_is_nan() -> None:
    nothing = curves(matches("ff"), np.array([0]), "all", limits=(1, 100))
    assert math.isnan(nothing.average_precision())
    assert math.isnan(nothing.average_recall(1))
    assert math.isnan(nothing.average_recall(100))


def test_nothing_found_is_zero() -> None:
    assert curves(matches(""), np.array([3]), "all", limits=(100,)).average_precision() == 0.0
