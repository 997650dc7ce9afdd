"""transformers' SAM and SAM 2: images and prompts go through the network's own processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensitivity.contracts import Connected, Prompts, Purpose
from sensitivity.errors import ModelError, TaskError
from sensitivity.tasks.connectors.noise import noise
from sensitivity.tasks.datasets import as_array
from sensitivity.tasks.images.pixels import Pixels

ENCODER = "vision_encoder"
"""What sees the image; prompts come behind it, as many as an image happens to have."""


def is_promptable(model: Any) -> bool:
    """Whether it is a SAM: it embeds an image once, and is then called with prompts."""
    return callable(getattr(model, "get_image_embeddings", None)) and hasattr(model, ENCODER)


@dataclass(frozen=True)
class ForImage:
    """An image as the processor makes it, without prompts.

    Attributes:
        processor: Of the network's kind, such as ``SamProcessor``.
    """

    processor: Any

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.processor.image_processor.to_json_string()})"

    def __call__(self, image: Pixels) -> Tensor:
        """Turn (H, W, 3) uint8 RGB into (3, h, w) float32."""
        pixels: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels


@dataclass(frozen=True)
class ForPrompts:
    """The ``segment`` of ``sv.PromptedMasks``: the image is embedded once, for all of its prompts.

    Attributes:
        processor: Of the network's kind; scales prompts and masks, too.
        prompts_at_once: Prompts decoded together; bounds the memory, since every mask has the size of the image.
    """

    processor: Any
    prompts_at_once: int = 16

    def __post_init__(self) -> None:
        if self.prompts_at_once < 1:
            raise TaskError(f"prompts_at_once={self.prompts_at_once}: it must be 1 or more.")

    def __repr__(self) -> str:
        settings = self.processor.image_processor.to_json_string()
        return f"{type(self).__name__}({settings}, prompts_at_once={self.prompts_at_once})"

    def __call__(self, model: Any, image: Pixels, prompts: Prompts) -> tuple[Any, Any]:
        """Mask logits (P, M, H, W) of the original size and predicted IoU (P, M)."""
        device = next(model.parameters()).device
        embeddings: Any = None
        masks, ious = [], []
        for some in prompts.chunks(self.prompts_at_once):
            inputs = self.processor(images=image, return_tensors="pt", **_listed(some)).to(device)
            if embeddings is None:
                embeddings = model.get_image_embeddings(inputs["pixel_values"])
            prompt_inputs = {
                key: inputs[key] for key in ("input_boxes", "input_points", "input_labels") if key in inputs
            }
            outputs = model(image_embeddings=embeddings, **prompt_inputs, multimask_output=True)
            masks.append(self._original(outputs.pred_masks, inputs))
            ious.append(as_array(outputs.iou_scores[0]))
        return np.concatenate(masks), np.concatenate(ious)

    def _original(self, masks: Tensor, inputs: Any) -> Any:
        """Logits (P, M, H, W) for the whole image, without what the processor had filled up."""
        sizes = [inputs[key] for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
        [resized] = self.processor.post_process_masks(masks, *sizes, binarize=False)
        return as_array(resized)


def _listed(prompts: Prompts) -> dict[str, Any]:
    """Prompts of one image as a processor takes them."""
    if prompts.boxes is not None:
        return {"input_boxes": [prompts.boxes.tolist()]}
    points = [] if prompts.points is None else prompts.points.tolist()
    return {"input_points": [[[point] for point in points]], "input_labels": [[[1] for _ in points]]}


def connect_promptable(model: Any, processor: Any) -> Connected:
    """A SAM of transformers, with the processor for images and prompts."""
    if not hasattr(processor, "image_processor") or not hasattr(processor, "post_process_masks"):
        raise ModelError(
            f"processor= is a {type(processor).__name__}, which takes no prompts. Give "
            "AutoProcessor.from_pretrained(name)."
        )
    preprocess = ForImage(processor)
    with torch.no_grad():
        image = preprocess(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
    return Connected(
        family="transformers",
        purpose=Purpose.PROMPTED,
        model=model,
        example_inputs=noise(1, *image.shape),
        preprocess=preprocess,
        adapter=ForPrompts(processor),
        parts=(ENCODER,),
    )
