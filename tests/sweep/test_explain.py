"""What a sweep will cost, told before it runs."""

from __future__ import annotations

import dataclasses
import sys
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
    explanation = wrapped.explain(MeanTask(40), [sv.INT4_WEIGHTS, sv.INT8_WEIGHTS])
    assert (explanation.variants, explanation.images, explanation.batch_images, explanation.naive_passes) == (
        8,
        40,
        4,
        9,
    )
    assert 0 < explanation.pass_s < explanation.seconds
    assert explanation.kept_bytes > 0
    assert 9 * 40 * sys.getsizeof(0.0) <= explanation.predictions_bytes < 9 * 40 * 64
    assert explanation.passes > 1
    assert "8 variants on 40 images" in str(explanation)
    assert wrapped.explain(MeanTask(40), sv.INT4_WEIGHTS, layers="stem:0:0").variants == 1
    assert wrapped.explain(MeanTask(40), sv.INT4_WEIGHTS, memory_limit=0).kept_bytes < explanation.kept_bytes


@pytest.mark.parametrize(
    ("passes", "text"),
    [
        (4.0, "4.0 passes over the data instead of 9, 0.001 s each"),
        (
            90.0,
            "9 passes over the data, 0.001 s each; with what is done once, weights and checks, that takes as long as",
        ),
    ],
)
def test_what_is_done_once_is_told_where_it_takes_longer_than_the_passes(
    wrapped: sv.Wrapped, passes: float, text: str
) -> None:
    explanation = wrapped.explain(MeanTask(40), [sv.INT4_WEIGHTS, sv.INT8_WEIGHTS])
    assert text in str(dataclasses.replace(explanation, passes=passes, pass_s=0.001))


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

    explanation = sv.wrap(Noisy().eval(), MeanTask(1).inputs).explain(MeanTask(8), sv.INT4_WEIGHTS)
    assert "random" in explanation.notes[0]
    assert explanation.kept_bytes == 0


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


class Work:
    """A clock that no other process moves: it counts multiply-adds of convolutions, and what scores say they cost."""

    def __init__(self) -> None:
        self.done = 0.0

    def __call__(self) -> float:
        return self.done


WORK = Work()


@pytest.fixture
def counted_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``explain`` read the count of work where it reads the time."""
    original = nn.Conv2d._conv_forward

    def counting(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output = original(self, x, weight, bias)
        WORK.done += output.numel() * weight[0].numel()
        return output

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", counting)
    monkeypatch.setattr("sensitivity.sweep.explain.clock", WORK)


def work_of(run: Callable[[], Any]) -> float:
    before = WORK.done
    run()
    return WORK.done - before


class CostlyTask(MeanTask):
    """Larger images, and a score that costs ``work`` for each of them."""

    def __init__(self, images: int, work: float) -> None:
        super().__init__(images)
        self.inputs = torch.randn(images, 3, 40, 40, generator=torch.Generator().manual_seed(1))
        self.work = work

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        WORK.done += self.work * len(predictions)
        return super().score(predictions)


class LeavingOut(CostlyTask):
    """Scores without each group in one go."""

    def scores_without(self, predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]) -> list[float]:
        self.score(predictions)
        rest = [[value for image, value in predictions.items() if image not in group] for group in groups]
        return [float(np.mean(some)) for some in rest]


@pytest.mark.parametrize("task", [CostlyTask(24, 0), CostlyTask(24, 4e5), LeavingOut(24, 4e6)])
def test_what_is_told_is_the_work_of_the_sweep(task: MeanTask, counted_work: None) -> None:
    wrapped = sv.wrap(Deep().eval(), task.inputs[:4])
    explanation = wrapped.explain(task, sv.INT4_WEIGHTS)
    took = work_of(lambda: wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False))
    assert explanation.seconds == pytest.approx(took, rel=0.1)
    assert wrapped.explain(task, sv.INT4_WEIGHTS).seconds == explanation.seconds


@pytest.mark.parametrize("recipe", [sv.INT4_WEIGHTS, sv.INT8])
def test_a_sweep_that_scores_little_is_told_as_well(recipe: sv.Recipe, counted_work: None) -> None:
    images = torch.randn(24, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    wrapped, task = sv.wrap(Deep().eval(), images[:4]), sv.FeatureFidelity(images, batch_size=4)
    wrapped.calibrate(images[:8])
    explanation = wrapped.explain(task, recipe)
    took = work_of(lambda: wrapped.analyze(task, recipe, progress=False))
    assert explanation.seconds == pytest.approx(took, rel=0.15)


def test_scores_that_intervals_need_are_counted(counted_work: None) -> None:
    images = CostlyTask(24, 1).inputs
    wrapped = sv.wrap(Deep().eval(), images[:4])
    cheap, dear, quick = (
        wrapped.explain(task, sv.INT4_WEIGHTS) for task in (CostlyTask(24, 1), CostlyTask(24, 400), LeavingOut(24, 400))
    )
    scores = len(wrapped.layers) + 1  # with the baseline's
    # for the row, for the drop, and for the drop without each of 20 groups
    assert dear.scoring_s == pytest.approx(400 * scores * (24 + 24 + 20 * 24 * 19 / 20))
    assert quick.scoring_s == pytest.approx(400 * scores * (24 + 24))
    assert cheap.scoring_s == pytest.approx(dear.scoring_s / 400)
    assert "of it for scores and intervals" in str(dear)


@pytest.mark.parametrize("kind", [MeanTask, InstanceTask])
def test_with_a_stop_the_most_that_it_can_take_is_told(kind: type[MeanTask], counted_work: None) -> None:
    wrapped, stop = sv.wrap(Chain().eval(), MeanTask(1).inputs), sv.Confidence(tolerance=1e-7, minimum_images=16)
    task = kind(400)
    explanation = wrapped.explain(task, sv.INT4_WEIGHTS, stop=stop)
    took = work_of(lambda: wrapped.analyze(task, sv.INT4_WEIGHTS, stop=stop, progress=False))
    assert explanation.at_most
    assert "at most about" in str(explanation)
    assert 0 < took <= explanation.seconds * 1.05


def test_variants_that_fail_are_told_and_not_counted(wrapped: sv.Wrapped) -> None:
    explanation = wrapped.explain(MeanTask(16), sv.Prune("2:4"))
    study = wrapped.analyze(MeanTask(16), sv.Prune("2:4"), progress=False)
    failed = [row for row in study.measurements if row.status == "failed"]
    assert explanation.notes == (f"{len(failed)} of 4 variants fail at once: {failed[0].reason}",)
    assert explanation.seconds > 0


def test_variants_that_fail_when_they_run_are_told(wrapped: sv.Wrapped) -> None:
    class Failing(MeanTask):
        def predict(self, model: Any, batch: Any) -> list[Any]:
            if model.stem.weight is not stem:
                raise MemoryError("no room")
            return super().predict(model, batch)

    stem = wrapped.model.stem.weight
    explanation = wrapped.explain(Failing(16), sv.INT4_WEIGHTS)
    assert explanation.notes == ("1 of 4 probed variants fail, and are not counted: MemoryError: no room",)


def test_a_sweep_in_which_everything_fails_is_told(wrapped: sv.Wrapped) -> None:
    explanation = wrapped.explain(MeanTask(16), sv.Prune("2:4"), layers="stem:0:0")
    assert explanation.notes[0].startswith("1 of 1 variants fail at once: RecipeError")


def test_a_metric_that_few_images_do_not_have_is_not_counted(wrapped: sv.Wrapped) -> None:
    class Whole(MeanTask):
        def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
            if len(predictions) < 40:
                raise ValueError("too few")
            return super().score(predictions)

    explanation = wrapped.explain(Whole(40), sv.INT4_WEIGHTS)
    assert explanation.notes == ("scoring is not counted, as few images cannot be scored: ValueError: too few",)
    assert explanation.scoring_s == 0
