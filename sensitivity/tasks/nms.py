"""Class-wise non-maximum suppression in plain torch, exact and fast enough for a sweep."""

from __future__ import annotations

import torch
from torch import Tensor

from sensitivity.errors import PredictionError

_BLOCK = 512
"""Candidates decided at once: bounds the memory at a few MB, however many boxes a broken model emits."""


def batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, *, max_kept: int | None = None
) -> Tensor:
    """Indices of the boxes that survive greedy suppression within their own class, best score first.

    Boxes are visited by descending score, equal scores in the given order. A box is kept unless its IoU with an
    already kept box of the same label is above the threshold. The result equals the one-box-at-a-time loop exactly:
    labels are compared, boxes are not shifted apart by class, so no precision is lost.

    Args:
        boxes: (N, 4) float, corners ``x1, y1, x2, y2`` in any unit.
        scores: (N,) float.
        labels: (N,) integer class of each box.
        iou_threshold: Largest IoU, in [0, 1], that two kept boxes of one class may have.
        max_kept: Stop after this many boxes; None keeps all survivors.

    Returns:
        (K,) int64 indices into ``boxes``, on their device.

    Raises:
        PredictionError: The three tensors do not describe the same number of boxes.

    Source:
        Greedy rule and strict ``>`` of ``torchvision.ops.batched_nms`` (its per-class form).

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0]])
        >>> batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([3, 3, 5]), 0.5).tolist()
        [0, 2]
    """
    _check_shapes(boxes, scores, labels)
    order = scores.argsort(descending=True, stable=True)
    limit = len(order) if max_kept is None else max_kept
    kept = order[:0]
    for start in range(0, len(order), _BLOCK):
        if len(kept) >= limit:
            break
        block = order[start : start + _BLOCK]
        free = block[~_overlaps(boxes, labels, kept, block, iou_threshold).any(dim=0)]
        kept = torch.cat([kept, free[_greedy(_overlaps(boxes, labels, free, free, iou_threshold))]])
    return kept[:limit]


def _greedy(overlaps: Tensor) -> Tensor:
    """Which of n boxes, best first, the greedy loop keeps; ``overlaps`` is (n, n) bool and symmetric.

    ``kept[j] = no kept i < j overlaps j`` has exactly one solution, as it defines each box by the ones before it.
    Each round settles at least one more box from the front, in practice a handful of rounds settles all.
    """
    suppresses = overlaps.triu(diagonal=1)
    kept = torch.ones(len(overlaps), dtype=torch.bool, device=overlaps.device)
    while True:
        settled = ~suppresses[kept].any(dim=0)
        if torch.equal(settled, kept):
            return kept
        kept = settled


def _overlaps(boxes: Tensor, labels: Tensor, rows: Tensor, columns: Tensor, iou_threshold: float) -> Tensor:
    """(R, C) bool: same label and IoU above the threshold; an undefined IoU (two empty boxes) is no overlap."""
    a, b = boxes[rows, None], boxes[None, columns]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    iou = intersection / (_area(a) + _area(b) - intersection)
    return (iou > iou_threshold) & (labels[rows, None] == labels[None, columns])


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _check_shapes(boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    count = len(scores)
    if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
        raise PredictionError(
            f"boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)} and labels {tuple(labels.shape)} "
            "do not describe the same boxes. Expected (N, 4), (N,) and (N,). "
            "Pass one image at a time, with one score and one label for each box."
        )
