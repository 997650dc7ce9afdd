from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sensitivity.errors import PredictionError
from sensitivity.tasks import nms
from sensitivity.tasks.nms import batched_nms

IOU_THRESHOLD = 0.45


def one_box_at_a_time(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> list[int]:
    """The definition, in float32 scalars and python loops."""
    corners = boxes.numpy()
    by_score = sorted(range(len(corners)), key=lambda i: -scores[i].item())
    survivors: list[int] = []
    for i in by_score:
        rivals = [j for j in survivors if labels[j] == labels[i]]
        if not any(iou(corners[j], corners[i]) > np.float32(iou_threshold) for j in rivals):
            survivors.append(i)
    return survivors


def iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    zero = np.float32(0)
    width = max(min(a[2], b[2]) - max(a[0], b[0]), zero)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), zero)
    both = width * height
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either > 0 else zero


def crowded_boxes(count: int, *, classes: int, score_levels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes that overlap a lot, with many equal scores when there are few levels of them."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 60
    sides = torch.rand(count, 2, generator=generator) * 40 + 5
    scores = torch.randint(1, score_levels + 1, (count,), generator=generator) / score_levels
    labels = torch.randint(classes, (count,), generator=generator)
    return torch.cat([corners, corners + sides], dim=1), scores, labels


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(0, 120),
    classes=st.integers(1, 5),
    score_levels=st.sampled_from([1, 3, 1000]),
    iou_threshold=st.sampled_from([0.0, 0.3, 0.45, 0.9, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_the_same_boxes_survive_as_in_the_loop_over_single_boxes(
    count: int, classes: int, score_levels: int, iou_threshold: float, seed: int
) -> None:
    candidates = crowded_boxes(count, classes=classes, score_levels=score_levels, seed=seed)
    assert batched_nms(*candidates, iou_threshold).tolist() == one_box_at_a_time(*candidates, iou_threshold)


@pytest.mark.parametrize("classes", [1, 6])
@pytest.mark.parametrize("count", [127, 128, 129, 900])
def test_candidates_of_several_blocks_give_the_same_as_the_loop(
    count: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nms, "_BLOCK", 128)
    monkeypatch.setattr(nms, "_PAIRS", 500)
    candidates = crowded_boxes(count, classes=classes, score_levels=50, seed=count)
    assert batched_nms(*candidates, IOU_THRESHOLD).tolist() == one_box_at_a_time(*candidates, IOU_THRESHOLD)


@pytest.mark.parametrize("max_kept", [0, 1, 40, 10_000])
def test_a_limit_keeps_the_best_of_the_survivors(max_kept: int) -> None:
    candidates = crowded_boxes(900, classes=20, score_levels=50, seed=1)
    survivors = batched_nms(*candidates, IOU_THRESHOLD)
    assert len(survivors) > 40
    assert torch.equal(batched_nms(*candidates, IOU_THRESHOLD, max_kept=max_kept), survivors[:max_kept])


def test_no_boxes_leave_no_boxes() -> None:
    survivors = batched_nms(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64), IOU_THRESHOLD)
    assert survivors.tolist() == []
    assert survivors.dtype == torch.int64


def test_of_equal_scores_the_first_box_wins() -> None:
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 3)
    assert batched_nms(boxes, torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64), IOU_THRESHOLD).tolist() == [0]


def test_a_suppressed_box_suppresses_nothing() -> None:
    left, middle, right = [0.0, 0.0, 10.0, 1.0], [3.0, 0.0, 13.0, 1.0], [6.0, 0.0, 16.0, 1.0]
    boxes, labels = torch.tensor([left, middle, right]), torch.zeros(3, dtype=torch.int64)
    assert batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), labels, IOU_THRESHOLD).tolist() == [0, 2]


def test_an_iou_equal_to_the_threshold_is_kept() -> None:
    boxes, labels = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]]), torch.zeros(2, dtype=torch.int64)
    assert batched_nms(boxes, torch.tensor([0.9, 0.8]), labels, 0.5).tolist() == [0, 1]
    assert batched_nms(boxes, torch.tensor([0.9, 0.8]), labels, 0.49).tolist() == [0]


def test_empty_boxes_are_kept_rather_than_compared() -> None:
    boxes = torch.zeros(2, 4)
    assert batched_nms(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64), 0.0).tolist() == [0, 1]


def test_a_hundred_thousand_candidates_of_a_broken_model_are_decided_within_the_limit() -> None:
    boxes, scores, labels = crowded_boxes(120_000, classes=80, score_levels=1000, seed=0)
    survivors = batched_nms(boxes, scores, labels, IOU_THRESHOLD, max_kept=300)
    assert len(survivors) == 300
    assert scores[survivors].diff().le(0).all()


@pytest.mark.parametrize("wrong", ["boxes", "scores", "labels"])
def test_tensors_of_different_lengths_are_refused(wrong: str) -> None:
    candidates = {"boxes": torch.rand(3, 4), "scores": torch.rand(3), "labels": torch.zeros(3, dtype=torch.int64)}
    candidates[wrong] = candidates[wrong][:2]
    with pytest.raises(PredictionError, match=r"do not describe the same boxes\. Expected \(N, 4\)"):
        batched_nms(candidates["boxes"], candidates["scores"], candidates["labels"], IOU_THRESHOLD)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_boxes_in_half_precision_suppress_each_other(dtype: torch.dtype) -> None:
    """The area of 390 x 390 pixels is infinite in fp16."""
    boxes = torch.tensor([[0.0, 0.0, 390.0, 390.0], [2.0, 0.0, 390.0, 390.0], [0.0, 2.0, 390.0, 390.0]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long)
    assert batched_nms(boxes.to(dtype), scores.to(dtype), labels, 0.5).tolist() == [0]
