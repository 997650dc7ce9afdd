"""A network together with what its family puts around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import nn

from sensitivity.tasks.datasets import as_array

Preprocess = Callable[[Any], torch.Tensor]


class Purpose(StrEnum):
    """What a network does with an image."""

    DETECTION = "detection"
    INSTANCES = "instance segmentation"
    SEMANTIC = "semantic segmentation"
    CLASSIFICATION = "classification"


@dataclass(frozen=True, kw_only=True)
class Connected:
    """What a family puts around a network.

    Attributes:
        family: Name of the family, such as ``torchvision``.
        purpose: What it does with an image.
        model: The network, in evaluation mode, from preprocessed batches to raw outputs; what is wrapped.
        example_inputs: One image as ``preprocess`` makes it, of noise: (1, C, h, w).
        preprocess: Makes a float32 tensor (C, h, w) of an image (H, W, 3) uint8 RGB, as the family does.
        adapter: Makes predictions of the model's raw outputs and original sizes, with the family's post-processing.
        classes: Name of each label from 0 on, where the family knows them; None for names that a label file must bring.
        first_label: The label of the first class: 1 where 0 is the background.
        last_label: The label of the last class, where the family knows it.
        batch_size: Images in a batch: 1 where ``preprocess`` keeps their sizes.
        parts: Paths of the submodules in front of the family's post-processing, for ``wrapped.deploy(parts=...)``; None
            where the whole model is.
    """

    family: str
    purpose: Purpose
    model: nn.Module
    example_inputs: torch.Tensor
    preprocess: Preprocess
    adapter: Callable[..., Any] | None = None
    classes: tuple[str, ...] | None = None
    first_label: int = 0
    last_label: int | None = None
    batch_size: int = 1
    parts: tuple[str, ...] | None = None

    def labels_in(self, categories: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        """Category id of each label in a COCO annotation file with these categories.

        By name, where the network knows the names of all of the file's categories. Otherwise a label that counts from 1
        up to the file's largest id is an id itself, as in networks that were trained on ids with gaps; and if neither,
        labels count the ids in ascending order.
        """
        ids = {str(category.get("name")): int(category["id"]) for category in categories}
        if self.classes and set(ids) <= set(self.classes):
            return {label: ids[name] for label, name in enumerate(self.classes) if name in ids}
        ordered = sorted(int(category["id"]) for category in categories)
        if self.first_label == 1 and self.last_label == ordered[-1]:
            return {number: number for number in ordered}
        return dict(enumerate(ordered, self.first_label))


@dataclass(frozen=True)
class OfKnownLabels:
    """An adapter whose predictions of classes that a data set does not have are left out: nothing can match them.

    Attributes:
        adapter: Makes predictions of raw outputs.
        labels: The labels that the data set has.
    """

    adapter: Callable[..., Any]
    labels: tuple[int, ...]

    def __call__(self, outputs: Any, sizes: Sequence[Any]) -> list[dict[str, Any]]:
        """The adapter's predictions of these labels, one dict for each image."""
        return [self._kept(prediction) for prediction in self.adapter(outputs, sizes)]

    def _kept(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        known = np.flatnonzero(np.isin(as_array(prediction["labels"]), self.labels))
        masks = {key: [prediction[key][i] for i in known] for key in prediction if key == "masks"}
        return {key: as_array(value)[known] for key, value in prediction.items() if key != "masks"} | masks


def noise(*shape: int) -> torch.Tensor:
    """An image of noise in [0, 1), the same every time; torch's own generator is not touched."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))
