"""How a model is asked for the masks of what a box or a click points at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from sensitivity.contracts import Prompts
from sensitivity.errors import PredictionError, TaskError
from sensitivity.tasks.datasets import as_array
from sensitivity.tasks.images.pixels import Pixels

Segment: TypeAlias = Callable[[Any, Pixels, Prompts], tuple[Any, Any]]


@runtime_checkable
class SegmentTogether(Protocol):
    """A ``segment`` that cuts out what the prompts of several images mean in one call."""

    def together(self, model: Any, images: Sequence[Pixels], prompts: Sequence[Prompts]) -> Sequence[tuple[Any, Any]]:
        """What ``segment`` returns, for each image.

        Args:
            model: What is analysed.
            images: Each (H, W, 3) uint8 RGB.
            prompts: Of each image, at least one.
        """


class PromptableModel(Protocol):
    """What ``SamSegment`` asks of a model; the SAMs of ``sensitivity.zoo`` have it."""

    def preprocess(self, image: Pixels) -> Any:
        """The encoder's input for an image (H, W, 3) uint8 RGB."""

    def encode(self, x: Any) -> Any:
        """The embedding of a preprocessed image."""

    def predict_masks(self, embedding: Any, *, original_size: tuple[int, int], **prompts: Any) -> Any:
        """Mask logits (P, M, H, W) at the original size and predicted IoU (P, M), first in a tuple.

        Args:
            embedding: Of the image.
            original_size: (height, width).
            prompts: ``boxes`` (P, 4), or ``points`` (P, 1, 2) with ``labels`` (P, 1) of ones; and ``multimask_output``.
        """


@dataclass(frozen=True, kw_only=True)
class SamSegment:
    """Segments with a ``PromptableModel``: the image is encoded once, for all of its prompts.

    Attributes:
        multimask_output: Ask for three masks a prompt (the one with the best predicted IoU counts) or for one.
        prompts_at_once: Prompts decoded together; bounds the memory, since every mask has the size of the image.
    """

    multimask_output: bool = True
    prompts_at_once: int = 16

    def __post_init__(self) -> None:
        if self.prompts_at_once < 1:
            raise TaskError(f"prompts_at_once={self.prompts_at_once}: it must be 1 or more.")

    def __call__(self, model: PromptableModel, image: Pixels, prompts: Prompts) -> tuple[Any, Any]:
        """Masks (P, M, H, W) bool and predicted IoU (P, M).

        Raises:
            TaskError: If the model lacks a method of ``PromptableModel``.
        """
        missing = [name for name in ("preprocess", "encode", "predict_masks") if not hasattr(model, name)]
        if missing:
            raise TaskError(
                f"a {type(model).__name__} cannot be prompted: it has no {', '.join(missing)}. "
                "Give the whole SAM instead of its encoder, or segment= for a model of your own."
            )
        embedding = model.encode(model.preprocess(image))
        size = (image.shape[0], image.shape[1])
        masks, ious = [], []
        for some in prompts.chunks(self.prompts_at_once):
            keywords = _sam_prompts(some) | {"multimask_output": self.multimask_output}
            logits, predicted = model.predict_masks(embedding, original_size=size, **keywords)[:2]
            masks.append(as_bool_masks(logits))
            ious.append(as_array(predicted))
        return np.concatenate(masks), np.concatenate(ious)


def _sam_prompts(prompts: Prompts) -> dict[str, Any]:
    if prompts.points is None:
        return {"boxes": prompts.boxes}
    return {"points": prompts.points[:, None, :], "labels": np.ones((len(prompts), 1), np.int64)}


def as_bool_masks(masks: Any) -> npt.NDArray[np.bool_]:
    """Masks as they are where they are bool, and the pixels above 0 where they are logits.

    Raises:
        PredictionError: If a logit is not finite.
    """
    pixels = as_array(masks)
    if pixels.dtype == bool:
        return pixels
    if not np.isfinite(pixels).all():
        raise PredictionError("mask logits are NaN or infinite. The model, as perturbed, may have overflowed.")
    return np.asarray(pixels > 0)
