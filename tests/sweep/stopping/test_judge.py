"""Stopping early: which layers leave when, and whether what is said of them holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import sensitivity as sv
from sensitivity.errors import StudyError
from sensitivity.sweep.stopping.ranking import StudentReach
from tests.sweep.mean_task import Chain, InstanceTask, MeanTask

TOLERANCE = 1e-4


@pytest.fixture
def wrapped() -> sv.Wrapped:
    return sv.wrap(Chain().eval(), MeanTask(1).inputs)


def analyze(wrapped: sv.Wrapped, task: MeanTask, **settings: object) -> sv.Study:
    return wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [MeanTask(600), InstanceTask(600)], ids=["samples", "race"])
def test_layers_stop_early_and_their_intervals_hold_the_drop_of_all_images(wrapped: sv.Wrapped, task: MeanTask) -> None:
    full = analyze(wrapped, task)
    stopped = analyze(wrapped, task, stop=sv.Confidence(tolerance=100 * TOLERANCE, minimum_images=32))
    assert {measurement.status for measurement in stopped.measurements} == {"decided"}
    for truth, stopped_row in zip(full.measurements, stopped.measurements, strict=True):
        assert 32 <= stopped_row.images < 600
        assert stopped_row.drop_low <= truth.drop <= stopped_row.drop_high
        settled = stopped_row.drop_high <= TOLERANCE or stopped_row.drop_low > TOLERANCE
        assert settled or stopped_row.drop_high - stopped_row.drop_low <= 2 * TOLERANCE
        assert f"{stopped_row.images} of" in stopped_row.reason
        assert stopped_row.score == pytest.approx(stopped.baseline.value - stopped_row.drop)


def test_every_look_of_every_layer_has_its_share_of_the_error(wrapped: sv.Wrapped) -> None:
    """The interval by hand: 40 groups left out, Student's t, and (1 - level) / (layers * looks) to be wrong."""
    task, tolerance = MeanTask(200), 1e-2
    looks = [32, 48, 72, 108, 162, 200]  # the images grow by half
    stop = sv.Confidence(tolerance=100 * tolerance, minimum_images=32, seed=5)  # in points
    measured = analyze(wrapped, task, stop=stop, replay=False).measurements
    assert {row.images for row in measured} <= set(looks[:-1])
    order = np.random.default_rng(5).permutation(200)
    with torch.no_grad():
        before = wrapped.model(task.inputs).double().numpy()
    for layer, row in zip(wrapped.layers, measured, strict=True):
        with wrapped.quantized(sv.Scheme.only(layer.name, sv.INT4_WEIGHTS)) as model, torch.no_grad():
            losses = (before - model(task.inputs).double().numpy())[order[: row.images]]
        groups = np.arange(row.images) % min(40, row.images)
        without = np.array([losses[groups != group].mean() for group in np.unique(groups)])
        spread = (len(without) - 1) / len(without) * np.square(without - without.mean()).sum()
        error = math.sqrt((spread + (5 * tolerance / row.images) ** 2) * (1 - row.images / 200))
        wrong = 0.05 / (len(measured) * len(looks))
        half = error * stats.t.ppf(1 - wrong / 2, len(without) - 1)
        assert (row.drop_high - row.drop_low) / 2 == pytest.approx(half, rel=0.02)


def test_every_look_may_be_wrong_about_the_places_of_the_worst(
    wrapped: sv.Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    class Noted(StudentReach):
        def chance(self, distance: float) -> float:
            looks.append(self.looks)
            return super().chance(distance)

    monkeypatch.setattr("sensitivity.sweep.stopping.judge.StudentReach", Noted)
    analyze(wrapped, MeanTask(200), stop=sv.Confidence(tolerance=1e-4, minimum_images=32, top=1))
    assert set(looks) == {6}, "of 32, 48, 72, 108, 162 and 200 images"


@pytest.mark.parametrize("kind", [MeanTask, InstanceTask], ids=["samples", "race"])
@pytest.mark.parametrize("more", [0, 5])
def test_where_all_layers_are_the_worst_each_stops_by_its_drop(
    wrapped: sv.Wrapped, kind: type[MeanTask], more: int
) -> None:
    stops = [sv.Confidence(tolerance=5.0, minimum_images=32, top=top) for top in (None, len(wrapped.layers) + more)]
    drops, worst = (analyze(wrapped, kind(200), stop=stop) for stop in stops)
    assert [replace(row, seconds=None) for row in worst.measurements] == [
        replace(row, seconds=None) for row in drops.measurements
    ]
    assert all((row.images or 0) >= 32 and row.drop_low is not None for row in worst.measurements)


@pytest.mark.parametrize("kind", [MeanTask, InstanceTask], ids=["samples", "race"])
def test_the_worst_layer_is_found_with_fewer_images_than_all_drops(wrapped: sv.Wrapped, kind: type[MeanTask]) -> None:
    full = analyze(wrapped, kind(600))
    worst = max(full.measurements, key=lambda row: row.drop or 0.0)
    every, racing = (
        analyze(wrapped, kind(600), stop=sv.Confidence(tolerance=1e-4, relative=1e-3, minimum_images=32, top=top))
        for top in (None, 1)
    )
    reasons = {row.layer: row.reason.partition(",")[0] for row in racing.measurements}
    assert reasons == {
        row.layer: "among the worst that were asked for"
        if row.layer == worst.layer
        else "not among the worst that were asked for"
        for row in full.measurements
    }
    assert {row.status for row in racing.measurements} == {"decided"}
    assert racing.protect(top=1).reasons.keys() == {worst.layer}
    assert sum(row.images for row in racing.measurements) < sum(row.images for row in every.measurements) / 2


def test_every_recipe_has_worst_layers_of_its_own(wrapped: sv.Wrapped) -> None:
    stop = sv.Confidence(tolerance=1e-4, minimum_images=32, top=1)
    recipes = [sv.INT4_WEIGHTS, sv.INT8_WEIGHTS]
    study = wrapped.analyze(MeanTask(600), recipes, stop=stop, progress=False)
    taken = [row.recipe for row in study.measurements if row.reason.startswith("among")]
    assert sorted(taken) == sorted(recipe.name for recipe in recipes)


def test_the_worst_layers_are_not_asked_for_where_all_others_are_perturbed(wrapped: sv.Wrapped) -> None:
    stop = sv.Confidence(tolerance=0.1, top=2)
    with pytest.raises(StudyError, match=r"Confidence\(top=2\) asks for the layers of the largest drops"):
        analyze(wrapped, MeanTask(16), stop=stop, direction="all-but-one")


@pytest.mark.parametrize("task", [MeanTask(60), InstanceTask(60)], ids=["samples", "race"])
def test_a_layer_that_is_never_decided_ends_with_the_result_of_a_full_sweep(
    wrapped: sv.Wrapped, task: MeanTask
) -> None:
    full = analyze(wrapped, task)
    stopped = analyze(wrapped, task, stop=sv.Confidence(tolerance=1e-7, relative=1e-6, minimum_images=16))
    assert {measurement.status for measurement in stopped.measurements} == {"measured"}
    for truth, stopped_row in zip(full.measurements, stopped.measurements, strict=True):
        assert stopped_row.drop == pytest.approx(truth.drop, abs=1e-8), "other batches, other last bits"
        assert stopped_row.drop_low == pytest.approx(stopped_row.drop_high)


@pytest.mark.parametrize("kind", [MeanTask, InstanceTask], ids=["samples", "race"])
def test_a_wider_tolerance_costs_fewer_images(wrapped: sv.Wrapped, kind: type[MeanTask]) -> None:
    images = []
    for tolerance in (1e-5, 1e-4, 1e-2):
        task = kind(400)
        study = analyze(wrapped, task, stop=sv.Confidence(tolerance=100 * tolerance, relative=0.1, minimum_images=16))
        images.append(sum(measurement.images for measurement in study.measurements))
    assert images[0] > images[2]
    assert all(more >= less for more, less in pairwise(images))


@pytest.mark.parametrize("kind", [MeanTask, InstanceTask], ids=["samples", "race"])
def test_the_order_of_the_images_is_that_of_the_seed(wrapped: sv.Wrapped, kind: type[MeanTask]) -> None:
    def drops(seed: int) -> list[float | None]:
        stop = sv.Confidence(tolerance=5, minimum_images=16, seed=seed)
        return [measurement.drop for measurement in analyze(wrapped, kind(200), stop=stop).measurements]

    assert drops(0) == drops(0)
    assert drops(0) != drops(1)


@pytest.mark.parametrize("kind", [MeanTask, InstanceTask], ids=["samples", "race"])
def test_a_resumed_race_ends_as_an_uninterrupted_one(wrapped: sv.Wrapped, kind: type[MeanTask], tmp_path: Path) -> None:
    stop = sv.Confidence(tolerance=100 * TOLERANCE, minimum_images=32)
    expected = analyze(wrapped, kind(300), stop=stop)
    store = tmp_path / "race.jsonl"
    interrupted = kind(300)
    predict = interrupted.predict

    def until(model: object, batch: object) -> list[object]:
        if interrupted.passes == 40:
            raise KeyboardInterrupt
        return predict(model, batch)  # type: ignore[arg-type]

    interrupted.predict = until  # type: ignore[method-assign,assignment]
    partial = analyze(wrapped, interrupted, stop=stop, store=store)
    assert "interrupted" in {measurement.status for measurement in partial.measurements}
    resumed = analyze(wrapped, kind(300), stop=stop, store=store)
    for measurement, other in zip(expected.measurements, resumed.measurements, strict=True):
        assert (
            measurement.drop,
            measurement.drop_low,
            measurement.drop_high,
            measurement.images,
            measurement.reason,
        ) == (
            *(other.drop, other.drop_low, other.drop_high),
            *(other.images, other.reason),
        )


def test_a_sweep_of_all_images_has_intervals_for_all_layers_at_once(wrapped: sv.Wrapped) -> None:
    study = analyze(wrapped, MeanTask(200))
    for measurement in study.measurements:
        assert measurement.drop_low is not None
        assert measurement.drop_high is not None
        assert measurement.drop_low < measurement.drop < measurement.drop_high
    alone = analyze(wrapped, MeanTask(200), layers="stem:0:0")
    first = study.measurements[0]
    assert alone.measurements[0].drop == first.drop
    assert alone.measurements[0].drop_high < first.drop_high, "fewer layers, fewer chances to be wrong"


def test_a_study_knows_what_its_intervals_are_about_and_the_tolerance_of_its_stop(wrapped: sv.Wrapped) -> None:
    task = MeanTask(20)
    whole, bare = analyze(wrapped, task).info, analyze(wrapped, task, intervals=False).info
    stopped = analyze(wrapped, task, stop=sv.Confidence(tolerance=0.3, level=0.9, minimum_images=8))
    assert (whole.interval_level, whole.interval_of, whole.tolerance, whole.images) == (0.95, "other-images", None, 20)
    assert (bare.interval_level, bare.interval_of) == (None, None)
    info = stopped.info
    assert (info.interval_level, info.interval_of, info.tolerance) == (0.9, "this-data-set", 0.3)
    assert stopped.verdicts() == stopped.verdicts(tolerance=0.3)


def test_too_few_images_give_no_interval(wrapped: sv.Wrapped) -> None:
    assert all(measurement.drop_low is None for measurement in analyze(wrapped, MeanTask(7)).measurements)


def test_an_interrupted_sweep_is_a_study_of_what_was_measured(wrapped: sv.Wrapped) -> None:
    task = MeanTask(80)
    predict = task.predict

    def until(model: object, batch: object) -> list[object]:
        if task.passes == 30:
            raise KeyboardInterrupt
        return predict(model, batch)  # type: ignore[arg-type]

    task.predict = until  # type: ignore[method-assign,assignment]
    study = analyze(wrapped, task, replay=False)
    assert study.notes[-1] == "interrupted: 24 of 80 images were run"
    assert {(measurement.status, measurement.images) for measurement in study.measurements} == {("interrupted", 24)}
    assert all(math.isfinite(measurement.drop) for measurement in study.measurements if measurement.drop is not None)
    assert len(study.table()) == 4


def test_without_intervals_every_layer_is_scored_once(wrapped: sv.Wrapped) -> None:
    class Counting(MeanTask):
        scored = 0

        def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
            self.scored += 1
            return super().score(predictions)

    task, plain = Counting(40), Counting(40)
    with_bounds, without = analyze(wrapped, task), analyze(wrapped, plain, intervals=False)
    assert [measurement.drop for measurement in without.measurements] == [
        measurement.drop for measurement in with_bounds.measurements
    ]
    assert {measurement.drop_low for measurement in without.measurements} == {None}
    assert {measurement.status for measurement in without.measurements} == {"measured"}
    assert not [note for note in without.notes if "interval" in note]
    assert plain.scored == len(without.measurements) + 1
    assert task.scored > 20 * len(with_bounds.measurements)
    assert (
        wrapped.explain(task, sv.INT4_WEIGHTS, intervals=False).scoring_s
        < wrapped.explain(task, sv.INT4_WEIGHTS).scoring_s
    )
