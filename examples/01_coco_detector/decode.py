"""From raw detector outputs to boxes in the original image; shared by every way of running the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sensitivity.tasks.nms import batched_nms

CLASSES = 80
YOLO_INPUT_SIDE = 320
YOLO_ANCHORS = (  # width, height in pixels of the 320 x 320 input; coarse head first
    ((115.0, 73.0), (119.0, 199.0), (242.0, 238.0)),
    ((12.0, 18.0), (37.0, 49.0), (52.0, 132.0)),
)

Detections = dict[str, Tensor]


def decode_yolo(
    outputs: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    *,
    score_threshold: float = 0.005,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
) -> list[Detections]:
    """Detections of a batch from the two raw heads of ``YoloFastest``; one box may be reported for several classes.

    Args:
        outputs: Coarse and fine head, each (N, 255, h, w) float32.
        sizes: (height, width) of each original image, in pixels.
        score_threshold: A (box, class) pair counts if objectness x class probability is above it.
        iou_threshold: Largest IoU of two reported boxes of one class.
        max_detections: Most boxes reported for an image, all classes together.

    Returns:
        For each image, best score first: ``boxes`` (K, 4) float32 ``x1, y1, x2, y2`` in original pixels, not clipped;
        ``scores`` (K,) float32; ``labels`` (K,) int64 in 0..79.
    """
    heads = [_yolo_head(output, anchors) for output, anchors in zip(outputs, YOLO_ANCHORS, strict=True)]
    boxes = torch.cat([head_boxes for head_boxes, _ in heads], dim=1)
    scores = torch.cat([head_scores for _, head_scores in heads], dim=1)
    detections = []
    for image_boxes, image_scores, size in zip(boxes, scores, sizes, strict=True):
        box, label = torch.nonzero(image_scores > score_threshold, as_tuple=True)
        candidates = image_boxes[box], image_scores[box, label], label
        detections.append(_suppress(*candidates, size, iou_threshold, max_detections))
    return detections


def decode_fastestdet(
    output: Tensor,
    sizes: Sequence[tuple[int, int]],
    *,
    score_threshold: float = 0.001,
    iou_threshold: float = 0.45,
) -> list[Detections]:
    """Detections of a batch from the raw grid of ``FastestDet``; each cell reports its most likely class.

    Args:
        output: (N, 85, h, w) float32.
        sizes: (height, width) of each original image, in pixels.
        score_threshold: A cell counts if objectness^0.6 x class probability^0.4 is above it.
        iou_threshold: Largest IoU of two reported boxes of one class.

    Returns:
        As ``decode_yolo``; at most one box a cell (484 for the 352 x 352 input).
    """
    cells = output.flatten(2).transpose(1, 2)
    probability, labels = cells[..., 5:].max(dim=2)
    scores = cells[..., 0].pow(0.6) * probability.pow(0.4)
    boxes = _grid_boxes(cells[..., 1:3].tanh(), cells[..., 3:5].sigmoid(), output.shape[-2:])
    image, cell = torch.nonzero(scores > score_threshold, as_tuple=True)
    scale = boxes.new_tensor([[width, height, width, height] for height, width in sizes])
    pixels, scores, labels = boxes[image, cell] * scale[image], scores[image, cell], labels[image, cell]
    survivors = batched_nms(pixels, scores, labels + CLASSES * image, iou_threshold)  # all images at once
    by_image = [survivors[image[survivors] == number] for number in range(len(sizes))]
    return [
        {"boxes": pixels[of_image], "scores": scores[of_image], "labels": labels[of_image]} for of_image in by_image
    ]


def _yolo_head(output: Tensor, anchors: Sequence[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Boxes (N, anchors x h x w, 4) as fractions of the image and class scores (N, anchors x h x w, 80) of one head."""
    grid = output.shape[-2:]
    raw = output.reshape(len(output), len(anchors), 5 + CLASSES, -1).transpose(2, 3)
    anchor_sizes = torch.tensor(anchors, dtype=output.dtype, device=output.device)[:, None] / YOLO_INPUT_SIDE
    boxes = _grid_boxes(raw[..., :2].sigmoid(), raw[..., 2:4].exp() * anchor_sizes, grid)
    probabilities = raw[..., 4:].sigmoid()
    scores = probabilities[..., :1] * probabilities[..., 1:]
    return boxes.flatten(1, 2), scores.flatten(1, 2)


def _grid_boxes(offsets: Tensor, extents: Tensor, grid: torch.Size) -> Tensor:
    """Corners (..., h x w, 4) from centre offsets in cells and extents in fractions of the image, (..., h x w, 2)."""
    rows, columns = torch.meshgrid(
        *[torch.arange(n, dtype=offsets.dtype, device=offsets.device) for n in grid], indexing="ij"
    )
    cells = torch.stack([columns, rows], dim=-1).flatten(0, 1)
    centres = (offsets + cells) / cells.new_tensor([grid[1], grid[0]])
    return torch.cat([centres - extents / 2, centres + extents / 2], dim=-1)


def _suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int], iou_threshold: float, limit: int
) -> Detections:
    height, width = size
    pixels = boxes * boxes.new_tensor([width, height, width, height])
    survivors = batched_nms(pixels, scores, labels, iou_threshold, max_kept=limit)
    return {"boxes": pixels[survivors], "scores": scores[survivors], "labels": labels[survivors]}
