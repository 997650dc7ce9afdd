"""Class-wise non-maximum suppression in plain torch, exact and fast enough for a sweep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sensitivity.errors import PredictionError

_BLOCK = 2048
"""Candidates decided at once: bounds the pairs that overlap to 2 million, however many a broken model emits."""

_PAIRS = 2**16
"""Pairs compared at once, in a few MB."""

_NARROWEST = 16
"""Columns that a row is compared with at least."""


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
    sides = torch.stack([*boxes.unbind(1), (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])])
    order = scores.argsort(descending=True, stable=True)
    limit = len(order) if max_kept is None else max_kept
    survivors = order[:0]
    for block in torch.split(order, _BLOCK):
        if len(survivors) >= limit:
            break
        kept_by_label = survivors[labels[survivors].argsort()]
        first, end = _runs(labels[kept_by_label], labels[block])
        suppressed, _ = _overlapping(sides[:, block], sides[:, kept_by_label], first, end, iou_threshold)
        free = block[_without(suppressed, len(block))]
        by_label = labels[free].argsort(stable=True)
        free_sides, free_labels = sides[:, free[by_label]], labels[free[by_label]]
        later = torch.arange(1, len(free) + 1, device=free.device)
        _, end = _runs(free_labels, free_labels)
        better, worse = _overlapping(free_sides, free_sides, later, end, iou_threshold)
        survivors = torch.cat([survivors, free[_greedy(by_label[better], by_label[worse], len(free))]])
    return survivors[:limit]


def _greedy(suppressing: Tensor, suppressed: Tensor, count: int) -> Tensor:
    """(count,) bool: which boxes, best first, the greedy loop keeps.

    ``kept[j] = no kept i < j overlaps j`` has exactly one solution, as it defines each box by the ones before it.
    Each round settles at least one more box from the front, in practice a handful of rounds settles all.

    Args:
        suppressing: (E,) the better box of each pair that overlaps.
        suppressed: (E,) the other.
        count: Number of boxes.
    """
    survives = torch.ones(count, dtype=torch.bool, device=suppressing.device)
    while True:
        settled = _without(suppressed[survives[suppressing]], count)
        if torch.equal(settled, survives):
            return survives
        survives = settled


def _without(positions: Tensor, count: int) -> Tensor:
    """(count,) bool: True but at these positions."""
    left = torch.ones(count, dtype=torch.bool, device=positions.device)
    left[positions] = False
    return left


def _runs(ascending: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each of (R,) labels where its run begins and ends among (C,) ascending ones."""
    return torch.searchsorted(ascending, labels), torch.searchsorted(ascending, labels, right=True)


def _overlapping(
    rows: Tensor, columns: Tensor, first: Tensor, end: Tensor, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """Pairs of a row r and one of the columns ``first[r]`` up to, not including, ``end[r]`` that overlap too much.

    A row is compared with a window of columns as wide as the next power of two, read as a whole: that is faster than
    fetching the columns of each pair. An undefined IoU (two empty boxes) is no overlap.

    Args:
        rows: (5, R) left, top, right, bottom and area.
        columns: (5, C).
        first: (R,) int64.
        end: (R,) int64.
        iou_threshold: Largest IoU allowed.

    Returns:
        (E,) int64 rows and (E,) int64 columns.
    """
    number = end - first
    widest = int(number.max()) if len(number) else 0
    columns = F.pad(columns, (0, 2 * max(widest, _NARROWEST)))
    pairs = [(first[:0], first[:0])]
    width, covered = _NARROWEST, 0
    while covered < widest:
        windows = columns.unfold(1, width, 1).unbind()
        pending = torch.nonzero((number > covered) & (number <= width))[:, 0]
        for some in torch.split(pending, max(1, _PAIRS // width)):
            near = [side.index_select(0, first[some]) for side in windows]
            above = _ious(rows[:, some, None].unbind(), near) > iou_threshold
            above &= torch.arange(width, device=some.device) < number[some, None]
            row, step = torch.nonzero(above, as_tuple=True)
            pairs.append((some[row], first[some[row]] + step))
        width, covered = 2 * width, width
    return torch.cat([row for row, _ in pairs]), torch.cat([column for _, column in pairs])


def _ious(boxes: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Intersection over union of boxes given by left, top, right, bottom and area, broadcast against each other."""
    width = torch.minimum(boxes[2], others[2]).sub_(torch.maximum(boxes[0], others[0])).clamp_(min=0)
    height = torch.minimum(boxes[3], others[3]).sub_(torch.maximum(boxes[1], others[1])).clamp_(min=0)
    intersection = width.mul_(height)
    return intersection / (boxes[4] + others[4]).sub_(intersection)


def _check_shapes(boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    count = len(scores)
    if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
        raise PredictionError(
            f"boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)} and labels {tuple(labels.shape)} "
            "do not describe the same boxes. Expected (N, 4), (N,) and (N,). "
            "Pass one image at a time, with one score and one label for each box."
        )
