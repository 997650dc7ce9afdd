"""What a model says about an image, in a form that people can look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_tools

from sensitivity.contracts import Seen
from sensitivity.tasks.annotations.segmentations import decode_mask
from sensitivity.tasks.images.pixels import Pixels


def seen_objects(prediction: Mapping[str, Any], names: Mapping[int, str], size: tuple[int, int]) -> Seen:
    """The objects of a detector's prediction, the best first.

    Args:
        prediction: As ``DetectionTask.predict`` gives it, with boxes, masks or keypoints.
        names: Name of each category.
        size: (height, width) of the image.
    """
    scores = np.asarray(prediction["scores"], np.float64)
    order = np.argsort(-scores, kind="stable")
    labels = [names[int(category)] for category in np.asarray(prediction["labels"], np.int64)[order]]
    pixels = None
    if "masks" in prediction:
        masks = [prediction["masks"][index] for index in order]
        boxes = _ends(np.array([mask_tools.toBbox(mask) for mask in masks], np.float64).reshape(-1, 4))
        pixels = painted(masks, size, [int(prediction["labels"][index]) for index in order])
    elif "keypoints" in prediction:
        points = np.asarray(prediction["keypoints"], np.float64)[order]
        boxes = np.concatenate([points.min(1), points.max(1)], axis=1) if len(points) else np.zeros((0, 4))
    else:
        boxes = np.asarray(prediction["boxes"], np.float64).reshape(-1, 4)[order]
    return Seen(boxes=boxes, labels=labels, scores=scores[order], pixels=pixels)


def painted(masks: Sequence[Mapping[str, Any]], size: tuple[int, int], numbers: Sequence[int]) -> npt.NDArray[np.int64]:
    """(H, W) number of the mask that covers each pixel, the first one on top; -1 where none does.

    Args:
        masks: Compressed RLE.
        size: (height, width) of the image.
        numbers: What each mask paints with.
    """
    canvas = np.full(size, -1, np.int64)
    for mask, number in reversed(list(zip(masks, numbers, strict=True))):
        canvas[decode_mask(dict(mask))] = number
    return canvas


def tensor_as_pixels(image: npt.NDArray[Any]) -> Pixels:
    """An image as a model takes it, (C, H, W) numbers of any range, as RGB of 8 bits: darkest to brightest value."""
    channels = np.nan_to_num(image.astype(np.float64)).reshape(-1, *image.shape[-2:])
    colours = channels if len(channels) == 3 else channels.mean(0, keepdims=True).repeat(3, axis=0)
    low, high = float(colours.min()), float(colours.max())
    scaled = (colours - low) * (255.0 / (high - low)) if high > low else np.zeros_like(colours)
    return np.ascontiguousarray(scaled.round().astype(np.uint8).transpose(1, 2, 0))


def _ends(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
