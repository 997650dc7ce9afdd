"""ultralytics' detectors, instance segmenters and pose networks: YOLO, end to end or with its NMS, and RT-DETR.

Images are prepared as the package's validation does with square inputs: the long side resized, the rest filled (YOLO),
or stretched (RT-DETR). The settings of its non-maximum suppression are those of its validation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sensitivity.contracts import Connected, Purpose
from sensitivity.errors import ModelError
from sensitivity.tasks.connectors.noise import noise
from sensitivity.tasks.datasets import Size
from sensitivity.tasks.images.pixels import Pixels

CONFIDENCE = 0.001
IOU = 0.7
MOST = 300
FILL = 114


@dataclass(frozen=True)
class Letterbox:
    """The long side resized to the input, the image in its middle, grey around it.

    Attributes:
        side: Height and width of the input, in pixels.
    """

    side: int

    def __call__(self, image: Pixels) -> Tensor:
        """Turn (H, W, 3) uint8 RGB into (3, side, side) float32 in [0, 1]."""
        import cv2

        height, width = self.inner_size(image.shape[:2])
        if image.shape[:2] != (height, width):
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        top, left = self._padding(height, width)
        canvas = np.full((self.side, self.side, 3), FILL, np.uint8)
        canvas[top : top + height, left : left + width] = image
        return torch.from_numpy(canvas.transpose(2, 0, 1).copy()).float() / 255

    def inner_size(self, size: Size) -> Size:
        """(height, width) that an image of this (height, width) gets inside the input, in pixels."""
        ratio = self.side / max(size)
        height, width = (side if ratio == 1 else min(math.ceil(side * ratio), self.side) for side in size)
        return height, width

    def ratio_pad(self, size: Size) -> tuple[tuple[float, float], tuple[int, int]]:
        """Scales (down, across) and offsets (left, top), in the form that the package's ``ops`` take."""
        height, width = self.inner_size(size)
        top, left = self._padding(height, width)
        return (height / size[0], width / size[1]), (left, top)

    def _padding(self, height: int, width: int) -> tuple[int, int]:
        return round((self.side - height) / 2 - 0.1), round((self.side - width) / 2 - 0.1)


@dataclass(frozen=True)
class Stretched:
    """The whole image stretched to a square.

    Attributes:
        side: Height and width of the input, in pixels.
    """

    side: int

    def __call__(self, image: Pixels) -> Tensor:
        """Turn (H, W, 3) uint8 RGB into (3, side, side) float32 in [0, 1]."""
        import cv2

        if image.shape[:2] != (self.side, self.side):
            image = np.asarray(cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_LINEAR), np.uint8)
        return torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255


@dataclass(frozen=True)
class Suppressed:
    """Boxes of a YOLO, by the package's own non-maximum suppression; with masks of the original size where it has them.

    Masks are those that the package's validation writes for COCO's metric.

    Attributes:
        letterbox: What the images went through.
        classes: Number of classes.
        end2end: Whether the head has chosen its boxes already.
        masks: Whether masks are wanted.
        keypoints: Numbers of keypoints and of values of each, where there are some.
    """

    letterbox: Letterbox
    classes: int
    end2end: bool = False
    masks: bool = False
    keypoints: tuple[int, int] | None = None

    def __call__(self, outputs: Any, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Predictions in original pixels, one dict for each image."""
        from ultralytics.utils import nms, ops  # type: ignore[import-not-found]

        raw, prototypes = self._separated(outputs)
        detections = nms.non_max_suppression(
            raw,
            CONFIDENCE,
            IOU,
            nc=self.classes if self.masks or self.keypoints else 0,
            multi_label=True,
            max_det=MOST,
            end2end=self.end2end,
            max_time_img=math.inf,  # its limit would make results depend on the machine
        )
        predictions = []
        square = (self.letterbox.side, self.letterbox.side)
        for number, (rows, size) in enumerate(zip(detections, sizes, strict=True)):
            placed = self.letterbox.ratio_pad(size)
            prediction = {"scores": rows[:, 4], "labels": rows[:, 5].long()}
            if prototypes is not None:
                masks = ops.process_mask_native(prototypes[number], rows[:, 6:], rows[:, :4], square)
                prediction["masks"] = ops.scale_masks(masks[None], size, ratio_pad=placed)[0].byte().bool()
            if self.keypoints is not None:
                points = rows[:, 6:].reshape(-1, *self.keypoints).clone()
                prediction["keypoints"] = ops.scale_coords(square, points, size, ratio_pad=placed)
            prediction["boxes"] = ops.scale_boxes(square, rows[:, :4].clone(), size, ratio_pad=placed)
            predictions.append(prediction)
        return predictions

    def _separated(self, outputs: Any) -> tuple[Tensor, Tensor | None]:
        """The boxes' tensor, and the prototypes of masks."""
        if not self.masks:
            return (outputs if isinstance(outputs, Tensor) else outputs[0]), None
        first = outputs[0]
        return (first[0], first[1]) if isinstance(first, list | tuple) else (first, outputs[1])


@dataclass(frozen=True)
class Queries:
    """Boxes of an RT-DETR, which needs no suppression."""

    def __call__(self, outputs: Any, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Predictions in original pixels, one dict for each image."""
        from ultralytics.utils import ops

        rows = outputs if isinstance(outputs, Tensor) else outputs[0]
        predictions = []
        for image, (height, width) in zip(rows, sizes, strict=True):
            boxes = ops.xywh2xyxy(image[:, :4]) * image.new_tensor([width, height, width, height])
            scores, labels = image[:, 4], image[:, 5].long()
            if image.shape[1] > 6:  # class scores instead of a chosen class
                scores, labels = image[:, 4:].max(1)
            is_confident = scores > CONFIDENCE
            predictions.append(
                {
                    "boxes": boxes[is_confident][:MOST],
                    "scores": scores[is_confident][:MOST],
                    "labels": labels[is_confident][:MOST],
                }
            )
        return predictions


@dataclass(frozen=True)
class Divided:
    """Names layers by the division of the family's configuration files: backbone, neck and head.

    ``model.4.m.0.cv1`` is in block 4 of the ``backbone``; blocks keep the numbers that the configuration files count.
    What the last module repeats for each level is a stage of its own, with the level as the block: ``head.cv2:0:1``.

    Attributes:
        backbone: Modules of the backbone.
        last: Number of the last module, the head.
    """

    backbone: int
    last: int

    def __call__(self, paths: Sequence[str]) -> list[tuple[str, int] | None]:
        """(stage, block) of each module path; None for a path outside of the network's row of modules."""
        return [self._place(path.split(".")) for path in paths]

    def _place(self, path: Sequence[str]) -> tuple[str, int] | None:
        number = next((place for place, name in enumerate(path) if name.isdigit()), None)
        if number is None:
            return None
        block, inside = int(path[number]), path[number + 1 :]
        if block < self.last:
            return ("backbone" if block < self.backbone else "neck"), block
        level = next((place for place, name in enumerate(inside) if name.isdigit()), 1)
        stage = ".".join(("head", *inside[:level]))
        return stage, int(inside[level]) if len(inside) > level and inside[level].isdigit() else 0


def connect(model: Any, *, image_size: int = 640) -> Connected:
    """A network of ultralytics.

    Args:
        model: A ``YOLO`` or ``RTDETR`` object, or its network (``yolo.model``).
        image_size: Height and width of the input, in pixels; a multiple of 32.
    """
    network: Any = model if isinstance(getattr(model, "model", None), nn.Sequential) else getattr(model, "model", model)
    head: Any = network.model[-1] if isinstance(getattr(network, "model", None), nn.Sequential) else None
    kind = type(head).__name__
    if not any(known in kind for known in ("RTDETR", "Detect", "Segment", "Pose")):
        raise ModelError(
            f"the network ends in a {kind}: this connector knows detectors, instance segmenters and pose networks. "
            "Give preprocess= and adapter= to the task yourself."
        )
    network.eval()
    masks, poses = "Segment" in kind, "Pose" in kind
    queries = "RTDETR" in kind
    end2end = bool(getattr(head, "end2end", False))
    shape = tuple(head.kpt_shape) if poses else None
    suppressed = Suppressed(Letterbox(image_size), int(head.nc), end2end=end2end, masks=masks, keypoints=shape)
    return Connected(
        family="ultralytics",
        purpose=Purpose.INSTANCES if masks else Purpose.KEYPOINTS if poses else Purpose.DETECTION,
        model=network,
        example_inputs=noise(1, 3, image_size, image_size),
        preprocess=Stretched(image_size) if queries else Letterbox(image_size),
        adapter=Queries() if queries else suppressed,
        classes=tuple(network.names[number] for number in sorted(network.names)) if network.names else None,
        batch_size=8,
        naming=_division(network),
    )


def _division(network: Any) -> Divided | None:
    """The division that the network's configuration tells; None where it tells none."""
    backbone = (getattr(network, "yaml", None) or {}).get("backbone")
    return Divided(len(backbone), len(network.model) - 1) if backbone else None
