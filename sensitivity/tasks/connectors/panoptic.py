"""Panoptic segmentation of transformers' universal segmenters, in the form that torchmetrics scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NOTHING = -1
"""Class of a pixel that is in no segment."""


@dataclass(frozen=True)
class PanopticMaps:
    """An adapter of ``sv.LoaderTask`` for ``torchmetrics.detection.PanopticQuality``.

    A pixel that the processor puts into no segment has class -1, which the metric takes for void with
    ``allow_unknown_preds_category=True``.

    Attributes:
        processor: An image processor of transformers with ``post_process_panoptic_segmentation``.
        threshold: Probability from which on a query is a segment; the processor's, as are the two that follow.
        mask_threshold: Probability from which on a pixel belongs to a mask.
        overlap_mask_area_threshold: Part of a mask that has to be seen behind others.
    """

    processor: Any
    threshold: float = 0.5
    mask_threshold: float = 0.5
    overlap_mask_area_threshold: float = 0.8

    def __repr__(self) -> str:
        return f"PanopticMaps({self.processor.to_json_string()}, {self._settings})"

    @property
    def _settings(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name.endswith("threshold")}

    def __call__(self, outputs: Any, targets: Sequence[Tensor]) -> Tensor:
        """Class and instance of every pixel, (N, H, W, 2) int64; the targets (N, H, W, 2) tell the sizes."""
        sizes = [tuple(target.shape[:2]) for target in targets]
        segmentations = self.processor.post_process_panoptic_segmentation(outputs, target_sizes=sizes, **self._settings)
        return torch.stack([_pairs(image["segmentation"], image["segments_info"]) for image in segmentations])


def _pairs(segments: Tensor, known: Sequence[Any]) -> Tensor:
    instances = segments.long()
    classes = torch.full_like(instances, NOTHING)
    for segment in known:
        classes[instances == segment["id"]] = segment["label_id"]
    return torch.stack([classes, instances], dim=-1)
