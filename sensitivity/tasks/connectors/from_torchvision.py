"""torchvision's detectors, segmenters and classifiers.

A detector resizes and normalises inside of itself, for images of any size, and its outputs are post-processed boxes in
pixels of the image it was given; so images come one by one, as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from sensitivity.contracts import Connected, Purpose
from sensitivity.errors import ModelError
from sensitivity.tasks.connectors.noise import noise
from sensitivity.tasks.datasets import Size
from sensitivity.tasks.images.pixels import Pixels
from sensitivity.tasks.semantic import LabelMaps

HEADS = {
    "GeneralizedRCNN": (
        "backbone",
        "rpn.head",
        "roi_heads.box_head",
        "roi_heads.box_predictor",
        "roi_heads.mask_head",
        "roi_heads.mask_predictor",
        "roi_heads.keypoint_head",
        "roi_heads.keypoint_predictor",
    ),
    "RetinaNet": ("backbone", "head"),
    "FCOS": ("backbone", "head"),
    "SSD": ("backbone", "head"),
}
"""Classes of detectors, and their submodules in front of post-processing."""


@dataclass(frozen=True)
class AsIs:
    """An image in its own size, in [0, 1]: the detector does the rest."""

    def __call__(self, image: Pixels) -> torch.Tensor:
        """Turn (H, W, 3) uint8 RGB into (3, H, W) float32."""
        return torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255


@dataclass(frozen=True)
class Detections:
    """The detector's own dicts, with masks or keypoints where it has them.

    Attributes:
        masks: Whether masks are wanted.
        threshold: Probability from which on a pixel belongs to a mask, as torchvision's own evaluation has it.
    """

    masks: bool = False
    threshold: float = 0.5

    def __call__(self, outputs: Sequence[dict[str, Any]], sizes: Sequence[Size]) -> list[dict[str, Any]]:  # noqa: ARG002 - an adapter's
        """Predictions in original pixels, one dict for each image."""
        wanted = ("boxes", "scores", "labels", "keypoints")
        predictions = [{key: output[key] for key in wanted if key in output} for output in outputs]
        if self.masks:
            for prediction, output in zip(predictions, outputs, strict=True):
                prediction["masks"] = output["masks"][:, 0] > self.threshold
        return predictions


@dataclass(frozen=True)
class Transforms:
    """The transforms that weights were trained with, for one image, which is resized by Pillow as in its evaluation.

    Attributes:
        transforms: A module of torchvision's, as ``weights.transforms()`` gives it.
    """

    transforms: Any

    def __call__(self, image: Pixels) -> torch.Tensor:
        """Turn (H, W, 3) uint8 RGB into what the network takes."""
        transformed: torch.Tensor = self.transforms(Image.fromarray(image))
        return transformed


def connect(model: nn.Module, *, weights: Any = None) -> Connected:
    """A network of torchvision.

    Args:
        model: A network of ``torchvision.models``.
        weights: What it was made with, such as ``ResNet50_Weights.DEFAULT``, for the transforms and class names of
            classifiers and segmenters; None takes the defaults of torchvision's ImageNet and VOC weights.
    """
    model.eval()
    parents = [kind.__name__ for kind in type(model).__mro__]
    detector = next((name for name in HEADS if name in parents), None)
    names = tuple(weights.meta["categories"]) if weights is not None and "categories" in weights.meta else None
    if detector is not None:
        return _detector(model, detector)
    if type(model).__module__.startswith("torchvision.models.segmentation"):
        return _segmenter(model, weights, names)
    if not type(model).__module__.startswith("torchvision.models") or ".video" in type(model).__module__:
        raise ModelError(
            f"{type(model).__qualname__} is no detector, segmenter or classifier of torchvision.models. Give "
            "preprocess= and adapter= to the task yourself."
        )
    transforms = Transforms(weights.transforms() if weights is not None else _classification())
    side = _side(transforms)
    return Connected(
        family="torchvision",
        purpose=Purpose.CLASSIFICATION,
        model=model,
        example_inputs=noise(1, 3, side, side),
        preprocess=transforms,
        classes=names,
        batch_size=8,
    )


def _detector(model: Any, kind: str) -> Connected:
    heads = getattr(model, "roi_heads", None)
    masks = getattr(heads, "mask_predictor", None) is not None
    poses = getattr(heads, "keypoint_predictor", None) is not None
    paths = {path for path, _ in model.named_modules()}
    return Connected(
        family="torchvision",
        purpose=Purpose.KEYPOINTS if poses else Purpose.INSTANCES if masks else Purpose.DETECTION,
        model=model,
        example_inputs=noise(1, 3, 240, 320),
        preprocess=AsIs(),
        adapter=Detections(masks=masks),
        first_label=1,
        last_label=_last_label(model),
        parts=tuple(path for path in HEADS[kind] if path in paths),
    )


def _last_label(model: Any) -> int | None:
    """The last label of a detector; its labels count from the background, 0."""
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if predictor is not None:
        return int(predictor.cls_score.out_features) - 1
    classifier = getattr(model.head, "classification_head", None)
    labels = getattr(classifier, "num_classes", None) or getattr(classifier, "num_columns", None)
    return None if labels is None else int(labels) - 1


def _segmenter(model: nn.Module, weights: Any, names: tuple[str, ...] | None) -> Connected:
    from torchvision.transforms._presets import SemanticSegmentation  # type: ignore[import-not-found]

    transforms = weights.transforms() if weights is not None else SemanticSegmentation(resize_size=520)
    return Connected(
        family="torchvision",
        purpose=Purpose.SEMANTIC,
        model=model,
        example_inputs=noise(1, 3, 224, 320),
        preprocess=Transforms(transforms),
        adapter=LabelMaps(resize="scores"),
        classes=names,
    )


def _classification() -> Any:
    from torchvision.transforms._presets import ImageClassification

    return ImageClassification(crop_size=224)


def _side(transforms: Transforms) -> int:
    crop = getattr(transforms.transforms, "crop_size", [224])
    return int(crop[0] if isinstance(crop, list | tuple) else crop)
