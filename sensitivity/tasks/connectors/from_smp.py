"""segmentation_models_pytorch's semantic segmenters, with the normalisation of their encoders."""

from __future__ import annotations

from typing import Any

from sensitivity.contracts import Connected, Purpose
from sensitivity.errors import TaskError
from sensitivity.tasks.connectors.noise import noise
from sensitivity.tasks.datasets import Resize
from sensitivity.tasks.semantic import LabelMaps

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, which most encoders were trained with."""


def connect(
    model: Any,
    *,
    image_size: int | tuple[int, int] = 512,
    classes: tuple[str, ...] | None = None,
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
) -> Connected:
    """A network of segmentation_models_pytorch.

    Args:
        model: Such as ``smp.Unet("resnet34", classes=21)``; its outputs are logits.
        image_size: What images are stretched to: a side, or (height, width), in pixels; multiples of 32.
        classes: Name of each class, in the order of the model's outputs.
        mean: Of red, green and blue in [0, 1], as ``smp.encoders.get_preprocessing_params(encoder)`` gives it.
        std: The same.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height % 32 or width % 32 or height < 32 or width < 32:
        raise TaskError(f"image_size={image_size!r}: sides must be multiples of 32: the encoder halves them 5 times.")
    one_output = _outputs(model) == 1
    return Connected(
        family="smp",
        purpose=Purpose.SEMANTIC,
        model=model.eval(),
        example_inputs=noise(1, 3, height, width),
        preprocess=Resize(height=height, width=width, mean=mean, std=std),
        adapter=LabelMaps(resize="scores", threshold=0.0 if one_output else None),
        classes=tuple(classes) if classes else None,
        batch_size=4,
    )


def _outputs(model: Any) -> int:
    head = model.segmentation_head
    return int(next(module.out_channels for module in head.modules() if hasattr(module, "out_channels")))
