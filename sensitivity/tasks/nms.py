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
        boxes: (N, 4) float, corners ``x1, y1, x2, y2`` in any unit. Half precision is compared in float32, since the
            area of a box of 256 x 256 pixels is no fp16 number.
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
    boxes = boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes
    order = scores.argsort(descending=True, stable=True)
    limit = len(order) if max_kept is None else max_kept
    kept = order[:0]
    for start in range(0, len(order), _BLOCK):
        if len(kept) >= limit:
            break
        block = order[start : start + _BLOCK]
        _, hit = _overlaps(boxes, kept, block, _pairs(labels[kept], labels[block]), iou_threshold)
        free = block[_without(hit, len(block))]
        better, worse = _overlaps(boxes, free, free, _later_pairs(labels[free]), iou_threshold)
        kept = torch.cat([kept, free[_greedy(better, worse, len(free))]])
    return kept[:limit]


def _greedy(suppressing: Tensor, suppressed: Tensor, count: int) -> Tensor:
    """(count,) bool: which boxes, best first, the greedy loop keeps.

    ``kept[j] = no kept i < j overlaps j`` has exactly one solution, as it defines each box by the ones before it.
    Each round settles at least one more box from the front, in practice a handful of rounds settles all.

    Args:
        suppressing: (E,) the better box of each pair that overlaps.
        suppressed: (E,) the other.
        count: Number of boxes.
    """
    kept = torch.ones(count, dtype=torch.bool, device=suppressing.device)
    while True:
        settled = _without(suppressed[kept[suppressing]], count)
        if torch.equal(settled, kept):
            return kept
        kept = settled


def _without(positions: Tensor, count: int) -> Tensor:
    """(count,) bool: True but at these positions."""
    left = torch.ones(count, dtype=torch.bool, device=positions.device)
    left[positions] = False
    return left


def _pairs(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of every row and column with the same label, given the labels (R,) and (C,)."""
    ordered, by_label = columns.sort(stable=True)
    first = torch.searchsorted(ordered, rows)
    return _runs(by_label, first, torch.searchsorted(ordered, rows, right=True))


def _later_pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same for boxes among themselves: each with those of its label that come after it."""
    ordered, by_label = labels.sort(stable=True)
    first = torch.empty_like(by_label)
    first[by_label] = torch.arange(1, len(labels) + 1, device=labels.device)
    return _runs(by_label, first, torch.searchsorted(ordered, labels, right=True))


def _runs(by_label: Tensor, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Row r with the columns at ``by_label[first[r] : end[r]]``, for all rows."""
    number = end - first
    row = torch.arange(len(first), device=first.device).repeat_interleave(number)
    start = (first - (number.cumsum(0) - number))[row]
    return row, by_label[start + torch.arange(len(row), device=first.device)]


def _overlaps(
    boxes: Tensor, rows: Tensor, columns: Tensor, pairs: tuple[Tensor, Tensor], iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """The pairs whose IoU is above the threshold; an undefined IoU (two empty boxes) is no overlap."""
    left, top, right, bottom = boxes.T.contiguous()
    areas = (right - left) * (bottom - top)
    a, b = rows[pairs[0]], columns[pairs[1]]
    width = (torch.minimum(right[a], right[b]) - torch.maximum(left[a], left[b])).clamp(min=0)
    height = (torch.minimum(bottom[a], bottom[b]) - torch.maximum(top[a], top[b])).clamp(min=0)
    intersection = width * height
    above = intersection / (areas[a] + areas[b] - intersection) > iou_threshold
    return pairs[0][above], pairs[1][above]


def _check_shapes(boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    count = len(scores)
    if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
        raise PredictionError(
            f"boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)} and labels {tuple(labels.shape)} "
            "do not describe the same boxes. Expected (N, 4), (N,) and (N,). "
            "Pass one image at a time, with one score and one label for each box."
        )
