"""Which layers are the worst: chances of places, and how often the answer is right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sensitivity.sweep.stopping.ranking import BoundaryReach, Estimate, Reach, StudentReach, place_in_ranking


def estimate(drop: float, reach: Reach | None, status: Any = "undecided") -> Estimate:
    return Estimate(drop, -math.inf, math.inf, 64, status, reach=reach)


def exact(drop: float) -> Estimate:
    return Estimate(drop, drop, drop, 64, "undecided")


def places(drops_and_errors: dict[float, float], top: int, *, tolerance: float = 0.0, error: float = 0.05) -> list[str]:
    """Of layers whose estimates have so many standard errors."""
    estimates = [estimate(drop, StudentReach(size, 39, 1)) for drop, size in drops_and_errors.items()]
    return [placed.status for placed in place_in_ranking(estimates, top, tolerance=tolerance, error=error)]


@pytest.mark.parametrize("distance", [0.0, 0.7, 2.0])
def test_a_chance_is_that_of_students_t_at_every_look(distance: float) -> None:
    tail = stats.t.sf(distance / 0.5, 23)
    assert StudentReach(0.5, 23, 1).chance(distance) == pytest.approx(tail)
    assert StudentReach(0.5, 23, 6).chance(distance) == pytest.approx(min(1.0, 6 * tail))


@pytest.mark.parametrize("error", [0.3, 0.01, 1e-6])
def test_a_boundary_excludes_what_lies_beyond_its_interval_with_its_error(error: float) -> None:
    reach = BoundaryReach(standard_error=0.2, since_first=3.0, unwatched=0.1)
    assert reach.chance(reach.half_width(error)) == pytest.approx(error)
    assert reach.chance(0.0) == 1.0


def test_layers_far_from_the_cut_have_their_places_and_those_beside_it_have_none_yet() -> None:
    assert places({6.5: 1, 5.2: 1, 5.0: 1, 3.9: 1}, 2) == ["undecided"] * 4, "all within two errors of the cut"
    assert places({30: 1, 5.2: 1, 5.0: 1, -20: 1}, 2) == ["top", "undecided", "undecided", "not-top"]
    assert places({30: 1, 5.2: 0.01, 5.0: 0.01, -20: 1}, 2) == ["top", "top", "not-top", "not-top"]


def test_layers_that_differ_by_less_than_the_tolerance_are_not_told_apart() -> None:
    assert places({30: 1, 5.2: 1, 5.0: 1, -20: 1}, 2, tolerance=6.0) == ["top", "top", "not-top", "not-top"]
    assert places({30: 1, 5.2: 1, 5.0: 1, -20: 1}, 2, tolerance=2.0)[1:3] == ["undecided", "undecided"]


def test_what_sure_layers_leave_of_the_error_is_used_by_the_others() -> None:
    far = {float(100 + n): 1.0 for n in range(8)}
    beside = {2.0: 1.0, -2.2: 1.0}
    wrong = stats.t.sf(2.1, 39)
    assert 0.05 / 10 < wrong < 0.05 / 2, "more than an equal share of the error, less than half of it"
    assert places(far | beside, 9) == ["top"] * 9 + ["not-top"]
    assert places(far | beside, 9, error=1.05 * wrong) == ["top"] * 8 + ["undecided"] * 2


def test_all_layers_are_the_worst_where_no_more_are_asked_about() -> None:
    assert places({1.0: 5.0, 2.0: 5.0}, 2) == ["top", "top"]
    assert places({1.0: 5.0}, 3) == ["top"]


def test_exact_drops_have_places_and_unknown_ones_leave_all_open() -> None:
    ranked = place_in_ranking([exact(1.0), exact(2.0), exact(2.0)], 1, tolerance=0.1, error=0.05)
    assert [placed.status for placed in ranked] == ["not-top", "top", "not-top"], "of equal ones the first"
    unknown = [exact(1.0), estimate(math.nan, None)]
    assert [placed.status for placed in place_in_ranking(unknown, 1, tolerance=0.1, error=0.05)] == ["undecided"] * 2


def test_a_layer_that_has_left_is_called_what_the_estimates_say_now() -> None:
    left = [estimate(1.0, StudentReach(0.1, 39, 1), "top"), estimate(3.0, StudentReach(0.1, 39, 1))]
    placed = place_in_ranking(left, 1, tolerance=0.1, error=0.05)
    assert [layer.status for layer in placed] == ["not-top", "top"]


@pytest.mark.parametrize("gap", [1.001, 1.5])
def test_the_answer_is_right_as_often_as_the_level_says_where_it_is_hardest(gap: float) -> None:
    """All layers beside the cut, as far apart as the tolerance allows them to be confused, or a little further."""
    draw, looks, wrong, images = np.random.default_rng(0), [64, 96, 144, 216, 324, 486, 729], 0, []
    truth = np.repeat([gap, 0.0], [5, 15])
    for _ in range(400):
        sums = np.cumsum(draw.normal(truth, 6.0, (looks[-1], 20)), axis=0)
        layers = [estimate(math.nan, None)] * 20
        for look in looks:
            for number, layer in enumerate(layers):
                if layer.status == "undecided":
                    reach = StudentReach(6 / math.sqrt(look), 39, len(looks))
                    layers[number] = Estimate(sums[look - 1, number] / look, -1, 1, look, "undecided", reach=reach)
            layers = place_in_ranking(layers, 5, tolerance=1.0, error=0.05)
        decided = [layer.status != "undecided" for layer in layers]
        images.append(np.mean([layer.images for layer in layers]))
        drops = np.array([layer.drop for layer in layers])
        wrong += bool(all(decided) and set(np.argsort(-drops)[:5]) != set(range(5)))
    assert wrong <= 0.05 * 400
    assert np.mean(images) < looks[-1], "layers leave before the end, or nothing is tested"
