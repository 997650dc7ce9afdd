"""Detectors, segmenters, classifiers and SAMs of transformers, with their own image processors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensitivity.contracts import Connected, Purpose
from sensitivity.errors import ModelError
from sensitivity.tasks.connectors.noise import noise
from sensitivity.tasks.connectors.promptable import connect_promptable, is_promptable
from sensitivity.tasks.datasets import Size
from sensitivity.tasks.images.pixels import Pixels

MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class Processed:
    """An image as the network's own processor makes it.

    Attributes:
        processor: An image processor of transformers.
    """

    processor: Any

    def __repr__(self) -> str:
        return f"Processed({self.processor.to_json_string()})"

    def __call__(self, image: Pixels) -> Tensor:
        """Turn (H, W, 3) uint8 RGB into (3, h, w) float32."""
        own = image if image.flags.writeable else image.copy()  # torch warns of arrays that it could not change
        pixels: Tensor = self.processor(images=own, return_tensors="pt")["pixel_values"][0]
        return pixels


@dataclass(frozen=True)
class Boxes(Processed):
    """Boxes by ``post_process_object_detection``."""

    def __call__(self, outputs: Any, sizes: Sequence[Size]) -> list[dict[str, Any]]:  # type: ignore[override]
        """Predictions in original pixels, one dict for each image, best first where there are more than 100."""
        results = self.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=list(sizes))
        return [{key: result[key] for key in ("boxes", "scores", "labels")} for result in results]


@dataclass(frozen=True)
class Instances(Processed):
    """Masks by ``post_process_instance_segmentation``."""

    def __call__(self, outputs: Any, sizes: Sequence[Size]) -> list[dict[str, Any]]:  # type: ignore[override]
        """Predictions of the original size, one dict for each image."""
        results = self.processor.post_process_instance_segmentation(
            outputs, threshold=0.0, target_sizes=list(sizes), return_binary_maps=True
        )
        return [_masks(result, size) for result, size in zip(results, sizes, strict=True)]


def _masks(result: dict[str, Any], size: Size) -> dict[str, Any]:
    segments = result["segments_info"]
    maps = result["segmentation"] if segments else torch.zeros((0, *size))
    return {
        "masks": np.asarray(maps).reshape(-1, *size) > MASK_THRESHOLD,
        "scores": [segment["score"] for segment in segments],
        "labels": [segment["label_id"] for segment in segments],
    }


@dataclass(frozen=True)
class Maps(Processed):
    """Label maps by ``post_process_semantic_segmentation``."""

    def __call__(self, outputs: Any, sizes: Sequence[Size]) -> list[Tensor]:  # type: ignore[override]
        """Label maps of the original size, one for each image."""
        maps: list[Tensor] = self.processor.post_process_semantic_segmentation(outputs, target_sizes=list(sizes))
        return maps


def connect(model: Any, *, processor: Any = None) -> Connected:
    """A network of transformers.

    Args:
        model: One with a head, such as ``AutoModelForObjectDetection.from_pretrained(name)``.
        processor: ``AutoImageProcessor.from_pretrained(name)``; None takes one of the network's kind with its default
            settings, which trained weights may have others than. For a SAM, ``AutoProcessor.from_pretrained(name)``.
    """
    model.eval()
    if is_promptable(model):
        return connect_promptable(model, processor if processor is not None else _default_prompter(model))
    processor = processor if processor is not None else _default_processor(model)
    purpose = _purpose(model, processor)
    image = Processed(processor)(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
    adapters = {Purpose.DETECTION: Boxes, Purpose.INSTANCES: Instances, Purpose.SEMANTIC: Maps}
    names = {int(number): str(name) for number, name in (model.config.id2label or {}).items()}
    return Connected(
        family="transformers",
        purpose=purpose,
        model=model,
        example_inputs=noise(1, *image.shape),
        preprocess=Processed(processor),
        adapter=adapters[purpose](processor) if purpose in adapters else None,
        classes=tuple(names.get(number, f"LABEL_{number}") for number in range(max(names) + 1)) if names else None,
    )


def _default_processor(model: Any) -> Any:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING  # type: ignore[import-not-found]

    kinds = IMAGE_PROCESSOR_MAPPING.get(type(model.config), None)
    usable = [kind for kind in _flat(kinds) if kind is not None]
    if not usable:
        raise ModelError(f"no image processor is known for {type(model).__qualname__}. Give processor=.")
    return usable[0]()


def _default_prompter(model: Any) -> Any:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING  # type: ignore[import-not-found]

    kind = PROCESSOR_MAPPING.get(type(model.config), None)
    if kind is None:
        raise ModelError(f"no processor is known for {type(model).__qualname__}. Give processor=.")
    return kind(_default_processor(model))


def _flat(kinds: Any) -> list[Any]:
    if isinstance(kinds, dict):
        kinds = list(kinds.values())
    return [kind for part in kinds for kind in _flat(part)] if isinstance(kinds, list | tuple) else [kinds]


def _purpose(model: Any, processor: Any) -> Purpose:
    """By the name of the class, which transformers' heads follow."""
    name = type(model).__name__
    if name.endswith(("ForObjectDetection", "ForDetection")):
        return Purpose.DETECTION
    if name.endswith("ForSemanticSegmentation"):
        return Purpose.SEMANTIC
    if name.endswith(("ForUniversalSegmentation", "ForInstanceSegmentation", "ForSegmentation")) and hasattr(
        processor, "post_process_instance_segmentation"
    ):
        return Purpose.INSTANCES
    if name.endswith("ForImageClassification"):
        return Purpose.CLASSIFICATION
    raise ModelError(
        f"{name} has none of the heads that this connector knows: ForObjectDetection, ForSemanticSegmentation, "
        "ForUniversalSegmentation, ForInstanceSegmentation, ForImageClassification. Give preprocess= and adapter= to "
        "the task yourself."
    )
