"""What each detector wants to see: a plain stretch to its square input, in its own channel order."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SquareInput:
    """Resizes an image to a square, aspect ratio ignored, as the released detectors were trained.

    Attributes:
        side: Height and width of the network input, in pixels.
        bgr: The network was trained on OpenCV's channel order.
    """

    side: int
    bgr: bool = False

    def __call__(self, image: np.ndarray) -> Tensor:
        """Turns an (H, W, 3) uint8 RGB image into a (3, side, side) float32 tensor in [0, 1]."""
        resized = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_LINEAR)
        ordered = resized[..., ::-1] if self.bgr else resized
        return torch.from_numpy(np.ascontiguousarray(ordered.transpose(2, 0, 1))).float() / 255


YOLO_FASTEST = SquareInput(side=320)
FASTESTDET = SquareInput(side=352, bgr=True)
