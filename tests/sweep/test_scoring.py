"""A metric that fails, is not a number or is interrupted costs the rows that need it, and never the study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import sensitivity as sv
from sensitivity.errors import TaskError
from tests.sweep.mean_task import Chain, InstanceTask, MeanTask

Score = Callable[[dict[int, Any]], float]


class ScoredTask(MeanTask):
    """Scores by a function of the predictions."""

    def __init__(self, images: int, value: Score) -> None:
        super().__init__(images)
        self.value = value
        self.scored = 0

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        self.scored += 1
        return {"mean": self.value(dict(predictions))}


def mean(predictions: dict[int, float]) -> float:
    return sum(predictions.values()) / len(predictions)


@pytest.fixture
def wrapped() -> sv.Wrapped:
    return sv.wrap(Chain().eval(), MeanTask(1).inputs)


def analyze(wrapped: sv.Wrapped, task: MeanTask, **settings: Any) -> sv.Study:
    return wrapped.analyze(task, sv.INT4_WEIGHTS, progress=settings.pop("progress", False), **settings)


def raising_for(number: int, images: int) -> Score:
    """Raises where the perturbed model of this number is scored, which is the first to change something."""
    seen: list[dict[int, float]] = []

    def value(predictions: dict[int, float]) -> float:
        if len(predictions) == images and predictions not in seen:
            seen.append(predictions)
        if number < len(seen) and predictions == seen[number]:
            raise ValueError("boxes overlap")
        return mean(predictions)

    return value


def test_a_metric_that_fails_on_one_layer_is_a_failed_row(wrapped: sv.Wrapped) -> None:
    study = analyze(wrapped, ScoredTask(16, raising_for(2, 16)))
    assert [row.status for row in study.measurements] == ["measured", "failed", "measured", "measured"]
    assert study.measurements[1].reason == "mean cannot be computed: ValueError: boxes overlap"
    assert study.measurements[0].drop_low is not None


def test_a_metric_that_fails_on_one_layer_stops_where_that_is_asked(wrapped: sv.Wrapped) -> None:
    with pytest.raises(ValueError, match="boxes overlap"):
        analyze(wrapped, ScoredTask(16, raising_for(2, 16)), on_error="raise")


def test_a_metric_that_fails_on_the_unperturbed_model_is_an_error_of_the_task(wrapped: sv.Wrapped) -> None:
    with pytest.raises(TaskError, match="mean cannot score the unperturbed model: ValueError: boxes overlap"):
        analyze(wrapped, ScoredTask(16, raising_for(0, 16)))


def needs_the_first_image(predictions: dict[int, float]) -> float:
    if 0 not in predictions:
        raise ValueError("only one class present")
    return mean(predictions)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (needs_the_first_image, "mean fails: ValueError: only one class present"),
        (lambda predictions: mean(predictions) if 0 in predictions else math.nan, "mean is not a number"),
    ],
)
def test_a_metric_that_is_not_defined_on_some_images_gives_drops_without_intervals(
    wrapped: sv.Wrapped, value: Score, why: str
) -> None:
    plain, study = analyze(wrapped, MeanTask(16)), analyze(wrapped, ScoredTask(16, value))
    assert [row.status for row in study.measurements] == ["measured"] * 4
    assert [row.drop for row in study.measurements] == pytest.approx([row.drop for row in plain.measurements])
    assert {(row.drop_low, row.drop_high) for row in study.measurements} == {(None, None)}
    assert study.notes == (f"no interval for 4 of 4 measurements: without some of the images {why}",)


def test_a_metric_that_nothing_moves_gives_no_interval_and_blames_nothing(wrapped: sv.Wrapped) -> None:
    study = analyze(wrapped, ScoredTask(16, lambda predictions: 1.0))
    assert [(row.drop, row.drop_low, row.drop_high) for row in study.measurements] == [(0.0, None, None)] * 4
    assert study.notes == ()


def test_a_metric_that_fails_on_samples_decides_nothing_early(wrapped: sv.Wrapped) -> None:
    def all_or_nothing(predictions: dict[int, float]) -> float:
        if len(predictions) < 60:
            raise ValueError("too few")
        return mean(predictions)

    stop = sv.Confidence(tolerance=10, minimum_images=16)
    assert {row.images for row in analyze(wrapped, ScoredTask(60, mean), stop=stop).measurements} != {60}
    study = analyze(wrapped, ScoredTask(60, all_or_nothing), stop=stop)
    assert [(row.status, row.images) for row in study.measurements] == [("measured", 60)] * 4


def test_a_mean_that_fails_on_an_instance_fails_that_layer(wrapped: sv.Wrapped) -> None:
    class Picky(InstanceTask):
        def __init__(self, images: int) -> None:
            super().__init__(images)
            self.seen: set[str] = set()

        def instance_sum(self, prediction: Any) -> float:
            self.seen.add(repr(prediction))
            if len(self.seen) == 30:
                raise ValueError("no such mask")
            return super().instance_sum(prediction)

    stop = sv.Confidence(tolerance=1e-4, minimum_images=16)
    study = analyze(wrapped, Picky(40), stop=stop)
    failed = [row for row in study.measurements if row.status == "failed"]
    assert [row.reason for row in failed] == ["instance_sum fails: ValueError: no such mask"]
    assert len({row.status for row in study.measurements}) > 1
    with pytest.raises(ValueError, match="no such mask"):
        analyze(wrapped, Picky(40), stop=stop, on_error="raise")


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("stop", [None, sv.Confidence(tolerance=0.5, minimum_images=16)])
def test_a_layer_that_yields_no_numbers_is_a_failed_row_with_or_without_a_stop(
    wrapped: sv.Wrapped, factor: float, stop: sv.Confidence | None
) -> None:
    class Poisoned(InstanceTask):
        """Gives the factor for images beyond the tenth wherever the second layer was perturbed."""

        def predict(self, model: Any, batch: Any) -> list[Any]:
            predictions = super().predict(model, batch)
            if len(model.body[1].weight.unique()) < 200 and batch.images[0] > 10:
                predictions[-1]["values"] = [factor] * len(predictions[-1]["values"])
            return predictions

    study = analyze(wrapped, Poisoned(40), stop=stop)
    assert [row.status for row in study.measurements].count("failed") == 1
    assert study.measurements[1].status == "failed"
    assert "number" in study.measurements[1].reason


def test_a_progress_bar_does_not_need_a_metric_that_is_defined_on_few_images(
    wrapped: sv.Wrapped, capsys: pytest.CaptureFixture[str]
) -> None:
    def whole(predictions: dict[int, float]) -> float:
        if len(predictions) < 7:
            raise ZeroDivisionError("no pairs")
        return mean(predictions)

    study = analyze(wrapped, ScoredTask(7, whole), progress=True)
    assert "head:0:0" in capsys.readouterr().err
    assert [row.status for row in study.measurements] == ["measured"] * 4


def test_a_baseline_that_is_not_a_number_is_refused(wrapped: sv.Wrapped) -> None:
    with pytest.raises(TaskError, match=r"'mean' of the unperturbed model is not a number on the 16 .* another metric"):
        analyze(wrapped, ScoredTask(16, lambda predictions: math.nan))


@pytest.mark.parametrize("at", [1, 3, 24, 40, 70, 88])
def test_an_interrupt_while_scores_are_computed_leaves_the_scores(wrapped: sv.Wrapped, at: int) -> None:
    task = ScoredTask(20, mean)

    def value(predictions: dict[int, float]) -> float:
        if task.scored == at:
            raise KeyboardInterrupt
        return mean(predictions)

    task.value = value
    expected, study = analyze(wrapped, ScoredTask(20, mean)), analyze(wrapped, task)
    assert [row.drop for row in study.measurements] == [row.drop for row in expected.measurements]
    bounded = [row.drop_low is not None for row in study.measurements]
    assert bounded == sorted(bounded, reverse=True)
    assert not bounded[-1]
    assert study.notes == ("interrupted while scores were computed: the remaining rows have no interval",)


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("settings", [{"intervals": False}, {"stop": sv.Confidence(tolerance=10, minimum_images=16)}])
def test_a_first_interrupt_costs_no_score_where_there_are_no_intervals_to_leave_out(
    wrapped: sv.Wrapped, at: int, settings: dict[str, Any]
) -> None:
    calls = 0

    class Interrupted(InstanceTask):
        def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
            nonlocal calls
            calls += 1
            if calls == at:
                raise KeyboardInterrupt
            return super().score(predictions)

    study, expected = (analyze(wrapped, task(20), **settings) for task in (Interrupted, InstanceTask))
    assert calls > 3
    assert [row.drop for row in study.measurements] == [row.drop for row in expected.measurements]
    assert study.notes == expected.notes


def test_a_second_interrupt_leaves_the_rest_unscored(wrapped: sv.Wrapped, tmp_path: Path) -> None:
    task = ScoredTask(20, mean)

    def value(predictions: dict[int, float]) -> float:
        if task.scored in (30, 31):
            raise KeyboardInterrupt
        return mean(predictions)

    task.value = value
    study = analyze(wrapped, task, store=tmp_path / "s.jsonl")
    rows = [(row.status, row.reason) for row in study.measurements]
    assert rows == [("interrupted", "before it was scored")] * 4
    assert len(study.notes) == 2
    assert str(study)
    assert study.table()["drop"].isna().all()
    again = analyze(wrapped, ScoredTask(20, mean), store=tmp_path / "s.jsonl")
    assert [row.status for row in again.measurements] == ["measured"] * 4
