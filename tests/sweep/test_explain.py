"""What a sweep will cost, told before it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import TaskError
from tests.sweep.mean_task import Chain, InstanceTask, MeanTask


@pytest.fixture
def wrapped() -> sv.Wrapped:
    return sv.wrap(Chain().eval(), MeanTask(1).inputs)


def test_variants_images_and_passes_are_told(wrapped: sv.Wrapped) -> None:
    found = wrapped.explain(MeanTask(40), [sv.INT4_WEIGHTS, sv.INT8_WEIGHTS])
    assert (found.variants, found.images, found.batch_images, found.naive_passes) == (8, 40, 4, 9)
    assert 0 < found.pass_s < found.seconds
    assert found.kept_bytes > 0
    assert 9 * 40 * sys.getsizeof(0.0) <= found.predictions_bytes < 9 * 40 * 64
    assert found.passes > 1
    assert "8 variants on 40 images" in str(found)
    assert wrapped.explain(MeanTask(40), sv.INT4_WEIGHTS, layers="stem:0:0").variants == 1
    assert wrapped.explain(MeanTask(40), sv.INT4_WEIGHTS, memory_limit=0).kept_bytes < found.kept_bytes


def test_the_first_four_batches_alone_are_run_and_nothing_is_left_behind(wrapped: sv.Wrapped) -> None:
    seen: list[Any] = []

    class Watched(MeanTask):
        def predict(self, model: Any, batch: Any) -> list[Any]:
            seen.append(batch.images)
            return super().predict(model, batch)

    before = {name: value.clone() for name, value in wrapped.model.state_dict().items()}
    wrapped.explain(Watched(40), sv.INT4_WEIGHTS)
    assert set(seen) == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15)}
    assert all(torch.equal(value, before[name]) for name, value in wrapped.model.state_dict().items())


def test_a_model_that_cannot_be_replayed_is_said_to_run_in_full() -> None:
    class Noisy(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + torch.rand_like(x))

    found = sv.wrap(Noisy().eval(), MeanTask(1).inputs).explain(MeanTask(8), sv.INT4_WEIGHTS)
    assert "random" in found.notes[0]
    assert found.kept_bytes == 0


def test_no_images_is_an_error(wrapped: sv.Wrapped) -> None:
    with pytest.raises(TaskError, match="no images"):
        wrapped.explain(MeanTask(0), sv.INT4_WEIGHTS)


class Deep(nn.Module):
    """Convolutions that take some time, the larger images first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.early = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(5))
        self.late = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(8))
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv in self.early:
            x = conv(x).relu() + x
        x = x[:, :, ::2, ::2]
        for conv in self.late:
            x = conv(x).relu() + x
        out: Tensor = self.head(x).mean((1, 2, 3)).sigmoid()
        return out


class TimedTask(MeanTask):
    """Larger images, and a score that takes some time for each."""

    def __init__(self, images: int, work: int) -> None:
        super().__init__(images)
        self.inputs = torch.randn(images, 3, 40, 40, generator=torch.Generator().manual_seed(1))
        self.work = work

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        for _ in predictions:
            np.sort(np.arange(self.work)[::-1] * 7 % 1001)
        return super().score(predictions)


class LeavingOut(TimedTask):
    """Scores without each group in one go."""

    def scores_without(self, predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]) -> list[float]:
        self.score(predictions)
        rest = [[one for image, one in predictions.items() if image not in group] for group in groups]
        return [float(np.mean(some)) for some in rest]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU time instead of the time on the clock: others may use the machine as well."""
    monkeypatch.setattr("sensitivity.sweep.explain.clock", time.process_time)


def seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


@pytest.mark.slow
@pytest.mark.parametrize("task", [TimedTask(24, 10), TimedTask(24, 4000), LeavingOut(24, 20000)])
def test_what_is_told_is_what_a_sweep_takes_within_a_factor_of_two(task: MeanTask, on_cpu: None) -> None:
    wrapped = sv.wrap(Deep().eval(), task.inputs[:4])
    told = wrapped.explain(task, sv.INT4_WEIGHTS)
    took = seconds(lambda: wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False))
    assert took / 2 < told.seconds < took * 2
    again = wrapped.explain(task, sv.INT4_WEIGHTS)
    assert told.seconds / 1.6 < again.seconds < told.seconds * 1.6


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [sv.INT4_WEIGHTS, sv.INT8])
def test_a_sweep_that_scores_little_is_told_as_well(recipe: sv.Recipe, on_cpu: None) -> None:
    images = torch.randn(24, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    wrapped, task = sv.wrap(Deep().eval(), images[:4]), sv.FeatureFidelity(images, batch_size=4)
    wrapped.calibrate(images[:8])
    told = wrapped.explain(task, recipe)
    took = seconds(lambda: wrapped.analyze(task, recipe, progress=False))
    assert took / 2 < told.seconds < took * 2


@pytest.mark.slow
def test_scores_that_intervals_need_are_counted(on_cpu: None) -> None:
    images = TimedTask(24, 1).inputs
    wrapped = sv.wrap(Deep().eval(), images[:4])
    plain, dear, quick = (
        wrapped.explain(task, sv.INT4_WEIGHTS) for task in (TimedTask(24, 1), TimedTask(24, 4000), LeavingOut(24, 4000))
    )
    assert dear.scoring_s > 5 * plain.scoring_s
    assert dear.scoring_s > 5 * quick.scoring_s
    assert "of it for scores and intervals" in str(dear)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MeanTask, InstanceTask])
def test_with_a_stop_the_most_that_it_can_take_is_told(kind: type[MeanTask], on_cpu: None) -> None:
    wrapped, stop = sv.wrap(Chain().eval(), MeanTask(1).inputs), sv.Confidence(tolerance=1e-9, minimum_images=16)
    task = kind(400)
    told = wrapped.explain(task, sv.INT4_WEIGHTS, stop=stop)
    took = seconds(lambda: wrapped.analyze(task, sv.INT4_WEIGHTS, stop=stop, progress=False))
    assert told.at_most
    assert "at most about" in str(told)
    assert took < told.seconds * 2


def test_variants_that_fail_are_told_and_not_counted(wrapped: sv.Wrapped) -> None:
    told = wrapped.explain(MeanTask(16), sv.Prune("2:4"))
    study = wrapped.analyze(MeanTask(16), sv.Prune("2:4"), progress=False)
    failed = [row for row in study.measurements if row.status == "failed"]
    assert told.notes == (f"{len(failed)} of 4 variants fail at once: {failed[0].reason}",)
    assert told.seconds > 0


def test_variants_that_fail_when_they_run_are_told(wrapped: sv.Wrapped) -> None:
    class Failing(MeanTask):
        def predict(self, model: Any, batch: Any) -> list[Any]:
            if model.stem.weight is not stem:
                raise MemoryError("no room")
            return super().predict(model, batch)

    stem = wrapped.model.stem.weight
    told = wrapped.explain(Failing(16), sv.INT4_WEIGHTS)
    assert told.notes == ("1 of 4 probed variants fail, and are not counted: MemoryError: no room",)


def test_a_sweep_in_which_everything_fails_is_told(wrapped: sv.Wrapped) -> None:
    told = wrapped.explain(MeanTask(16), sv.Prune("2:4"), layers="stem:0:0")
    assert told.notes[0].startswith("1 of 1 variants fail at once: RecipeError")


def test_a_metric_that_few_images_do_not_have_is_not_counted(wrapped: sv.Wrapped) -> None:
    class Whole(MeanTask):
        def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
            if len(predictions) < 40:
                raise ValueError("too few")
            return super().score(predictions)

    told = wrapped.explain(Whole(40), sv.INT4_WEIGHTS)
    assert told.notes == ("scoring is not counted, as few images cannot be scored: ValueError: too few",)
    assert told.scoring_s == 0
