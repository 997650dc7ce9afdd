from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from benchmarks.confidence_stop import draw_counts, draw_values, rare, thesis, thesis_drops, worst
from sensitivity.errors import StudyError
from sensitivity.sweep.stopping.race import (
    Confidence,
    Race,
    drop_and_reach,
    weighted_shuffle,
)
from sensitivity.sweep.stopping.ranking import boundary_at_first

HALF_A_POINT = Confidence(tolerance=0.005)


def race_to_the_end(losses: np.ndarray, counts: np.ndarray, confidence: Confidence, *, batch: int = 16) -> Race:
    race = Race(["layer"], counts, confidence)
    for start in range(0, len(race.order), batch):
        images = race.order[start : start + batch].tolist()
        if race.running:
            race.add("layer", images, losses[images])
    return race


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 12, 900)


def noisy(counts: np.ndarray, drop: float, deviation: float) -> np.ndarray:
    return np.random.default_rng(1).normal(drop, deviation, len(counts)) * counts


def test_all_images_seen_give_the_exact_mean_over_instances(counts: np.ndarray) -> None:
    losses = noisy(counts, 0.3, 1.0)
    estimate = race_to_the_end(losses, counts, Confidence(tolerance=1e-6, relative=1e-6)).estimate("layer")
    assert estimate.images == np.count_nonzero(counts)
    assert estimate.low == estimate.high == estimate.drop == pytest.approx(losses.sum() / counts.sum(), abs=1e-12)
    assert estimate.status == "above"


def test_a_layer_that_changes_nothing_is_below_after_the_minimum_of_images(counts: np.ndarray) -> None:
    estimate = race_to_the_end(np.zeros(900), counts, HALF_A_POINT).estimate("layer")
    assert (estimate.status, estimate.images, estimate.drop) == ("below", 64, 0.0)
    assert estimate.low < 0 < estimate.high <= 0.005


def test_a_ruinous_layer_is_above_at_once_and_measured_further_only_with_a_relative_precision(
    counts: np.ndarray,
) -> None:
    losses = noisy(counts, 0.3, 0.3)
    decided = race_to_the_end(losses, counts, HALF_A_POINT).estimate("layer")
    measured = race_to_the_end(losses, counts, Confidence(tolerance=0.005, relative=0.1)).estimate("layer")
    assert decided.status == measured.status == "above"
    assert decided.images == 64 < measured.images < 900
    assert (measured.high - measured.low) / 2 <= 0.1 * measured.drop < (decided.high - decided.low) / 2


def test_a_drop_at_the_tolerance_ends_with_a_narrow_interval(counts: np.ndarray) -> None:
    estimate = race_to_the_end(noisy(counts, 0.05, 0.2), counts, Confidence(tolerance=0.05)).estimate("layer")
    assert estimate.status == "narrow"
    assert estimate.low <= 0.05 < estimate.high
    assert (estimate.high - estimate.low) / 2 <= 0.05


@pytest.mark.parametrize(
    ("drop", "low", "high", "relative", "expected"),
    [
        (0.001, -0.003, 0.005, None, "below"),
        (0.2, 0.006, 0.4, None, "above"),
        (0.2, 0.006, 0.4, 0.2, "undecided"),
        (0.2, 0.17, 0.23, 0.2, "above"),
        (0.006, 0.002, 0.01, None, "narrow"),
        (0.006, -0.001, 0.013, None, "undecided"),
        (-0.1, -0.15, -0.05, None, "below"),
        (-0.1, -0.15, -0.05, 0.2, "undecided"),
    ],
)
def test_a_verdict_follows_from_the_interval(
    drop: float, low: float, high: float, relative: float | None, expected: str
) -> None:
    assert Confidence(tolerance=0.005, relative=relative).verdict(drop, low, high) == expected


def test_a_higher_level_more_layers_and_a_later_first_look_change_the_interval(counts: np.ndarray) -> None:
    losses = noisy(counts, 0.02, 0.1)

    def width(confidence: Confidence, layers: int = 1) -> float:
        race = Race([str(number) for number in range(layers)], counts, confidence)
        estimate = race.add("0", race.order[:256].tolist(), losses[race.order[:256]])
        return estimate.high - estimate.low

    plain = width(HALF_A_POINT)
    assert width(Confidence(tolerance=0.005, level=0.99)) > plain
    assert width(HALF_A_POINT, layers=10) == pytest.approx(width(Confidence(tolerance=0.005, level=0.995)))
    assert width(Confidence(tolerance=0.005, minimum_images=200)) < plain


def test_batches_do_not_move_the_estimate_and_looks_further_apart_narrow_the_bounds(counts: np.ndarray) -> None:
    losses = noisy(counts, 0.02, 0.1)
    estimates = []
    for batch in (1, 32, 256):
        race = Race(["layer"], counts, Confidence(tolerance=1e-9, relative=1e-9))
        for start in range(0, 256, batch):
            images = race.order[start : start + batch].tolist()
            estimates.append(race.add("layer", images, losses[images]))
    often, seldom, once = estimates[255], estimates[255 + 8], estimates[-1]
    assert often.drop == seldom.drop == once.drop
    assert often.low < seldom.low < once.low < once.high < seldom.high < often.high
    assert estimates[62].low == -math.inf  # 63 images: too few to say anything
    assert estimates[63].low > -math.inf


def bounds_of_the_page(
    losses: np.ndarray, sizes: np.ndarray, total: float, *, first: int, last: int, error: float, virtual_loss: float
) -> tuple[float, float, float]:
    """The formulas of docs/concepts/intervals.md, image by image, with the numbers that it names."""
    time = slope = numerator = time_at_first = time_since_look = seen = lost = 0.0
    weighted = []
    for position, (loss, size) in enumerate(zip(losses, sizes, strict=True)):
        left = total - seen
        step = min(total / left, 10.0)
        time += step**2
        slope += step * total / left
        numerator += step * (loss / size + lost / left)
        time_at_first += step**2 * (position < first)
        time_since_look += step**2 * (position >= len(losses) - last)
        weighted.append((step**2, loss / size))
        seen, lost = seen + size, lost + loss
    drop, count = numerator / slope, len(losses)
    spread = sum(weight * (mean - drop) ** 2 for weight, mean in weighted) / time * count / (count - 1)
    a = optimize.brentq(lambda a: 2 * (stats.norm.sf(a) + a * stats.norm.pdf(a)) - error, 0.1, 20)
    reach = math.sqrt(time) * math.sqrt(a**2 + math.log(time / time_at_first)) - 0.5826 * math.sqrt(time_since_look)
    half = math.sqrt(spread + virtual_loss**2 / count) * reach / slope
    return drop, drop - half, drop + half


@pytest.mark.parametrize("seen", [100, 190, 198])
@pytest.mark.parametrize("last", [1, 16, 64])
def test_bounds_are_those_of_the_page_up_to_the_last_images(seen: int, last: int) -> None:
    draw = np.random.default_rng(3)
    sizes = draw.integers(1, 9, 200).astype(float)
    losses = draw.normal(0.02, 0.1, 200) * sizes
    settings: dict[str, Any] = {"first": 64, "last": last, "error": 0.05 / 7, "virtual_loss": 0.025}
    left = sizes[seen - 1 :].sum()
    assert (sizes.sum() / left > 10) == (seen > 100), "the step of the last image is at its limit"
    drop, reach = drop_and_reach(
        losses[:seen], sizes[:seen], sizes.sum(), first=64, last=last, virtual_loss=settings["virtual_loss"]
    )
    half = reach.half_width(settings["error"])
    assert (drop, drop - half, drop + half) == pytest.approx(
        bounds_of_the_page(losses[:seen], sizes[:seen], sizes.sum(), **settings), rel=1e-9
    )


def test_at_the_stop_the_intervals_of_all_layers_hold_as_often_as_the_level_says() -> None:
    """200 data sets whose drops are known, eight layers each, level 95 %.

    Were the chance that all eight hold 0.95, at least 179 of 200 would in 99.9 % of such tests: that is the binomial's
    0.001 quantile. docs/concepts/intervals.md reports 99.5 % on data like these.
    """
    draw, held, stopped_early = np.random.default_rng(0), 0, 0
    drops = np.array([0.0, 0.002, 0.004, 0.006, 0.01, 0.03, 0.1, 0.3])
    layers = [str(number) for number in range(len(drops))]
    for seed in range(200):
        counts = draw.integers(1, 12, 600)
        touched = draw.random((len(drops), 600)) < 0.5
        values = np.where(touched, draw.normal(2 * drops[:, None], 0.01 + np.sqrt(drops)[:, None] / 2, (8, 600)), 0.0)
        losses, race = values * counts, Race(layers, counts, Confidence(tolerance=0.005, relative=0.2, seed=seed))
        for start in range(0, 600, 24):
            images = race.order[start : start + 24]
            for layer in race.running:
                race.add(layer, images.tolist(), losses[int(layer), images])
        estimates = [race.estimate(layer) for layer in layers]
        truths = losses.sum(axis=1) / counts.sum()
        held += all(
            estimate.low - 1e-12 <= truth <= estimate.high + 1e-12
            for estimate, truth in zip(estimates, truths, strict=True)
        )
        stopped_early += sum(estimate.images < 600 for estimate in estimates)
    assert stopped_early > 4 * 200, "most layers stop before the last image, or nothing is tested"
    assert stats.binom.ppf(0.001, 200, 0.95) == 179
    assert held >= 179


def test_a_seed_sets_the_order_and_images_without_instances_are_left_out(counts: np.ndarray) -> None:
    orders = [Race(["layer"], counts, Confidence(tolerance=0.1, seed=seed)).order for seed in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert sorted(orders[0]) == np.flatnonzero(counts).tolist()


def test_the_order_draws_each_next_image_with_its_share_of_the_instances_left() -> None:
    orders = np.array([weighted_shuffle(np.array([1.0, 0.0, 2.0, 3.0]), seed) for seed in range(6000)])
    pairs = [(first, second) for first in (0, 2, 3) for second in (0, 2, 3) if first != second]
    size = {0: 1, 2: 2, 3: 3}
    expected = [6000 * size[a] / 6 * size[b] / (6 - size[a]) for a, b in pairs]
    observed = [np.sum((orders[:, 0] == a) & (orders[:, 1] == b)) for a, b in pairs]
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_the_estimate_strays_like_a_martingale_though_large_images_come_first() -> None:
    draw = np.random.default_rng(3)
    counts = draw.integers(1, 30, 60).astype(float)
    losses = counts * (0.02 * counts + draw.normal(0, 0.1, 60))  # an instance in a crowd loses more
    total, truth = counts.sum(), losses.sum() / counts.sum()
    strayed, naive = [], []
    for seed in range(4000):
        order = weighted_shuffle(counts, seed)[:20]
        drop, _ = drop_and_reach(losses[order], counts[order], total, first=10, last=1, virtual_loss=0.0)
        left = total - np.cumsum(counts[order]) + counts[order]
        strayed.append(np.sum((total / left) ** 2) * (drop - truth))
        naive.append(losses[order].sum() / counts[order].sum() - truth)
    assert stats.ttest_1samp(strayed, 0).pvalue > 1e-3
    assert stats.ttest_1samp(naive, 0).pvalue < 1e-9  # the plain mean of what was seen favours the crowds


def test_a_random_walk_watched_from_a_first_look_crosses_the_boundary_as_often_as_said() -> None:
    walks = np.cumsum(np.random.default_rng(0).normal(size=(4000, 3000)), axis=1)[:, 29:]
    times = np.arange(30, 3001)
    boundary = np.sqrt(times) * np.sqrt(boundary_at_first(0.1) ** 2 + np.log(times / 30))
    crossed = (np.abs(walks) > boundary).any(axis=1).mean()
    # steps and an end see a little less than Brownian motion watched for ever; a fixed 1.645 is crossed by two thirds
    assert 0.06 < crossed < 0.1 + 3 * math.sqrt(0.09 / 4000)
    assert (np.abs(walks) > 1.645 * np.sqrt(times)).any(axis=1).mean() > 0.4


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("level", 1.0),
        ("tolerance", 0.0),
        ("relative", 1.5),
        ("minimum_images", 1),
        ("seed", -1),
        ("top", 0),
        ("top", True),
        ("top", 1.5),
        ("tolerance", math.nan),
        ("tolerance", True),
        ("tolerance", "0.005"),
        ("level", "0.95"),
        ("level", math.nan),
        ("relative", True),
        ("minimum_images", 10.5),
        ("minimum_images", True),
        ("seed", 1.5),
        ("seed", False),
    ],
)
def test_a_setting_of_no_use_is_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(StudyError, match=f"cannot use {setting}={value!r}"):
        Confidence(**{"tolerance": 0.005, setting: value})


def test_numbers_of_numpy_are_as_good_as_others() -> None:
    confidence = Confidence(
        tolerance=np.float32(0.005), level=np.float64(0.9), minimum_images=np.int64(32), seed=np.uint8(1)
    )
    assert confidence.minimum_images == 32


def test_a_level_that_is_the_chance_of_an_error_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(StudyError, match=r"level=0\.05\. Give the chance that the intervals are right.*level=0\.95\."):
        Confidence(tolerance=0.005, level=0.05)


@pytest.mark.parametrize("layers", [[], ["a", "a"]])
def test_a_race_without_layers_or_with_one_twice_is_refused(layers: list[str]) -> None:
    with pytest.raises(StudyError, match="layers of different names"):
        Race(layers, [1, 2], HALF_A_POINT)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [0.5], [[1]], [math.nan]])
def test_counts_that_are_no_numbers_of_instances_are_refused(counts: list[float]) -> None:
    with pytest.raises(StudyError, match="cannot be raced over"):
        Race(["a"], counts, HALF_A_POINT)


def test_images_out_of_order_or_twice_are_refused() -> None:
    race = Race(["a"], np.ones(100), HALF_A_POINT)
    first = race.order[:3].tolist()
    with pytest.raises(StudyError, match="next are"):
        race.add("a", first[::-1], np.zeros(3))
    race.add("a", first, np.zeros(3))
    with pytest.raises(StudyError, match="after 3 others"):
        race.add("a", first, np.zeros(3))
    with pytest.raises(StudyError, match="next are"):
        race.add("a", [*race.order[3:].tolist(), 0], np.zeros(98))


@pytest.mark.parametrize("losses", [np.zeros(2), [0.0, math.nan, 0.0], [0.0, math.inf, 0.0]])
def test_losses_that_do_not_fit_the_images_or_are_not_finite_are_refused(losses: np.ndarray) -> None:
    race = Race(["a"], np.ones(100), HALF_A_POINT)
    with pytest.raises(StudyError, match="one finite sum for each image"):
        race.add("a", race.order[:3].tolist(), losses)


def test_unknown_and_decided_layers_take_no_images() -> None:
    race = Race(["a", "b"], np.ones(100), HALF_A_POINT)
    with pytest.raises(StudyError, match="no layer 'c' in this race"):
        race.estimate("c")
    race.add("a", race.order.tolist(), np.zeros(100))
    assert race.running == ("b",)
    with pytest.raises(StudyError, match=r"a is decided \(below\)"):
        race.add("a", [], [])


@pytest.mark.parametrize("drop", [-0.0005, 0.0, 0.001, 0.02, 0.2164])
def test_simulated_losses_have_the_mean_and_the_deviation_asked_for(drop: float) -> None:
    values = draw_values(np.random.default_rng(0), drop, 400_000)
    deviation = 0.01 + math.sqrt(abs(drop)) / 2
    assert values.mean() == pytest.approx(drop, abs=5 * deviation / math.sqrt(400_000))
    assert values.std() == pytest.approx(deviation, rel=0.05)


def test_simulated_images_are_as_many_as_in_coco() -> None:
    counts = draw_counts(np.random.default_rng(0))
    assert (len(counts), counts.sum(), (counts == 0).sum()) == (5000, 36_000, 48)


@pytest.mark.slow
def test_a_confidence_stop_on_the_thesis_drops_covers_the_truth_and_saves_most_images(shared_data: Path) -> None:
    half, quarter, *less_sure = thesis(thesis_drops(shared_data / "thesis" / "l0.csv"), 12)
    for summary in (half, quarter, *less_sure):
        assert (
            summary["coverage_all_layers"] >= 0.9
        )  # 18 of 20: of 95 % it falls below in 8 % of such runs, of 99 % never
    assert half["share_of_images"] <= 0.0625
    assert quarter["share_of_images"] <= 0.17
    assert less_sure[0]["share_of_images"] <= 0.06


def test_the_worst_ten_of_the_thesis_cost_few_passes_and_are_right_but_for_the_tolerance(shared_data: Path) -> None:
    [wide, _] = worst(thesis_drops(shared_data / "thesis" / "l0.csv"), repetitions=1)
    assert wide["passes"] < 2.5, "3.0 where every layer has the same share of the error"
    assert wide["the_ten_but_for_the_tolerance"] == 1.0


def test_drops_that_sit_in_few_images_are_missed_by_early_looks_and_found_by_late_ones() -> None:
    """The limit of the method, as documented; where this fails the documentation is to be changed too."""
    early, late = (min(outcome["coverage"] for outcome in rare(40, minimum)) for minimum in (64, 300))
    assert early < 0.7
    assert late > 0.9
