"""Axes of a graph whose length may change: the number of samples, and the height and width of images."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sensitivity.deploy.prepare.signature import Signature
from sensitivity.errors import ExportError

DynamicAxis = Literal["batch", "size"]
AXES: tuple[DynamicAxis, ...] = ("batch", "size")
_IMAGE_AXES = (2, 3)
_IMAGE_DIMENSIONS = 4
_OTHER_SIZE = (32, 64)  # more pixels: multiples of what networks halve their images by


def dynamic_axes(dynamic: DynamicAxis | Collection[DynamicAxis] | None) -> tuple[DynamicAxis, ...]:
    """What may change, in the order of ``AXES``.

    Raises:
        ExportError: If something else is asked for.
    """
    if dynamic is None:
        return ()
    names = (dynamic,) if isinstance(dynamic, str) else dynamic
    if not isinstance(names, Sequence | Set) or any(name not in AXES for name in names):
        raise ExportError(f"dynamic={dynamic!r:.40}: give 'batch', 'size' (the height and width of images), or both.")
    return tuple(axis for axis in AXES if axis in names)


def axes_of(signature: Signature, dynamic: Sequence[DynamicAxis]) -> tuple[tuple[int, ...], ...]:
    """For each input of a graph the axes whose length may change.

    Raises:
        ExportError: If samples cannot be told apart, or no input is an image.
    """
    inputs = signature.inputs
    if "batch" in dynamic and not signature.splits:
        raise ExportError(
            "dynamic='batch' is not possible: the outputs for several samples are not those of each sample by itself, "
            "so the batch is fixed. Leave it out, and deploy with example inputs of the batch that is used"
        )
    images = [
        len(shape) == _IMAGE_DIMENSIONS and dtype.is_floating_point
        for shape, dtype in zip(inputs.shapes, inputs.dtypes, strict=True)
    ]
    if "size" in dynamic and not any(images):
        raise ExportError(f"dynamic='size' is not possible: no input is an image (N, C, H, W), but {inputs.shapes}")
    return tuple(
        ((0,) if "batch" in dynamic and counts else ()) + (_IMAGE_AXES if "size" in dynamic and is_image else ())
        for counts, is_image in zip(signature.batched_inputs, images, strict=True)
    )


def with_samples(tensors: Sequence[Tensor], axes: Sequence[Sequence[int]], count: int) -> list[Tensor]:
    """The inputs with another number of samples where that may change, each other one read backwards."""
    return [
        torch.cat([tensor if number % 2 == 0 else tensor.flip(-1) for number in range(count)]) if 0 in own else tensor
        for tensor, own in zip(tensors, axes, strict=True)
    ]


def with_other_size(tensors: Sequence[Tensor], axes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The inputs with images of another size where that may change."""
    return [
        F.interpolate(tensor, tuple(side + more for side, more in zip(tensor.shape[2:], _OTHER_SIZE, strict=True)))
        if set(_IMAGE_AXES) <= set(own)
        else tensor
        for tensor, own in zip(tensors, axes, strict=True)
    ]
