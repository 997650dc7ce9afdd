"""What the demo's task asks of a model: masks of what boxes hold, by an encoder and the rest of its SAM."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.contracts import Prompts
from sensitivity.tasks.images.pixels import Pixels
from sensitivity.zoo.efficientvit_sam import EfficientViTSam


def segment(sam: EfficientViTSam, encoder: nn.Module, image: Any, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """What the task asks of a model for one image.

    Args:
        sam: prepares images and decodes embeddings.
        encoder: maps a prepared image to its embedding.
        image: ``(H, W, 3)`` uint8 RGB.
        prompts: boxes.

    Returns:
        Mask logits ``(P, 3, H, W)`` and predicted IoU ``(P, 3)``.
    """
    embedding = encoder(sam.preprocess(image))
    masks, iou, _ = sam.predict_masks(embedding, boxes=prompts.boxes, original_size=image.shape[:2])
    return masks, iou


@dataclass(eq=False)
class SegmentBatch:
    """The same for all images of a batch in one pass: the network is so small that calling it is half of the cost.

    Only the mask that counts, the one with the best predicted IoU, is brought to the size of the image.

    Attributes:
        sam: prepares images and decodes embeddings.
    """

    sam: EfficientViTSam
    _prepared: tuple[list[Pixels], Tensor] | None = field(default=None, init=False, repr=False)

    def __call__(self, encoder: nn.Module, image: Pixels, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Mask logits ``(P, 1, H, W)`` and predicted IoU ``(P, 1)`` of one image."""
        return self.together(encoder, [image], [prompts])[0]

    def together(
        self, encoder: nn.Module, images: Sequence[Pixels], prompts: Sequence[Prompts]
    ) -> list[tuple[Tensor, Tensor]]:
        """Mask logits ``(P, 1, H, W)`` and predicted IoU ``(P, 1)`` of each image."""
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        boxes = [some.boxes for some in prompts if some.boxes is not None]
        decoded = self.sam.decode_boxes(encoder(self._prepare(images)), boxes, sizes)
        return [self._best(*masks, size) for masks, size in zip(decoded, sizes, strict=True)]

    def _prepare(self, images: Sequence[Pixels]) -> Tensor:
        """The encoder's input, kept for the next variant on the same batch."""
        known = self._prepared
        if known is None or len(known[0]) != len(images) or not all(map(operator.is_, known[0], images)):
            known = self._prepared = (list(images), torch.cat([self.sam.preprocess(image) for image in images]))
        return known[1]

    def _best(self, low_res: Tensor, iou: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        best = iou.argmax(dim=1)[:, None]
        chosen = low_res[torch.arange(len(low_res))[:, None], best]
        return self.sam.postprocess_masks(chosen, size), iou.gather(1, best)
