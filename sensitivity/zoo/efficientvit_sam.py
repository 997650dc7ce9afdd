"""EfficientViT-SAM: promptable segmentation with a fast image encoder, in five published sizes and a tiny one.

::

    sam = load("l0", checkpoint="l0.pt")
    embedding = sam.encode(sam.preprocess(image))
    masks, iou, _ = sam.predict_masks(embedding, boxes=boxes, original_size=image.shape[:2])

Three frames of coordinates meet here: the original image, the square input of the encoder (``image_size``), and the
square prompt frame (``prompt_size``, 1024 in all published models) in which prompts are encoded and masks are cropped.
The image fills the upper left of the squares; its longest side is their side.

Source:
    Zhang et al., *EfficientViT-SAM: Accelerated Segment Anything Model Without Performance Loss*, 2024; the reference
    program is ``mit-han-lab/efficientvit``.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sensitivity.errors import ModelError
from sensitivity.zoo.checkpoints import Mismatch, read_state_dict
from sensitivity.zoo.efficientvit import Backbone, ImageEncoder, Neck
from sensitivity.zoo.efficientvit_sam_configs import CONFIGS, EfficientViTSamConfig
from sensitivity.zoo.sam_decoder import MaskDecoder, PromptEncoder

PIXEL_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
PIXEL_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
"""ImageNet's statistics of red, green and blue in [0, 1]."""

NECK_STAGES = 3

PROMPT_FORMS = {"boxes": "(P, 4)", "points": "(P, N, 2)", "labels": "(P, N)", "masks": "(P, 1, 4h, 4w)"}


class MaskPrediction(NamedTuple):
    """What :meth:`EfficientViTSam.predict_masks` returns for P prompts with M masks each.

    Args:
        masks: logits ``(P, M, H, W)`` at the original size; above 0 is object.
        iou: predicted intersection over union of each mask, ``(P, M)``.
        low_res: logits ``(P, M, 4h, 4w)`` of the padded square; one of them can be given back as a mask prompt.
    """

    masks: Tensor
    iou: Tensor
    low_res: Tensor


class EfficientViTSam(nn.Module):
    """A promptable segmentation model.

    Letters: S ``config.image_size``, C ``config.decoder_width``, h = w ``config.embedding_size``, P prompts of one
    image, M masks of a prompt (3, or 1 without ``multimask_output``).

    Args:
        config: the sizes; ``dataclasses.replace(CONFIGS["tiny"], image_size=256)`` makes a variant.
    """

    def __init__(self, config: EfficientViTSamConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = _image_encoder(config)
        self.prompt_encoder = PromptEncoder(
            config.decoder_width,
            embedding_size=config.embedding_size,
            prompt_size=config.prompt_size,
            mask_channels=config.mask_channels,
        )
        self.mask_decoder = MaskDecoder(
            config.decoder_width,
            depth=config.decoder_depth,
            heads=config.decoder_heads,
            hidden=config.decoder_hidden,
            iou_hidden=config.iou_hidden,
        )

    def forward(self, images: Tensor, boxes: Tensor, *, multimask_output: bool = True) -> tuple[Tensor, Tensor]:
        """Segment what the boxes of a batch of images hold; for training and for whole-model traces.

        Args:
            images: ``(B, 3, S, S)``, from :meth:`preprocess`.
            boxes: ``(B, P, 4)``, left, top, right, bottom in pixels of the prompt frame (``config.prompt_size``).
            multimask_output: three masks a box, or one.

        Returns:
            Mask logits ``(B, P, M, 4h, 4w)`` of the padded squares and predicted IoU ``(B, P, M)``.
        """
        batch, prompts = boxes.shape[:2]
        embeddings = self.encode(images).repeat_interleave(prompts, dim=0)
        masks, iou = self._decode(embeddings, boxes=boxes.reshape(-1, 4), multimask_output=multimask_output)
        return masks.reshape(batch, prompts, *masks.shape[1:]), iou.reshape(batch, prompts, *iou.shape[1:])

    def preprocess(self, image: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """Make the encoder's input of an image: resize its longest side to S, normalise, pad right and below.

        Args:
            image: ``(H, W, 3)``, uint8, RGB.

        Returns:
            ``(1, 3, S, S)`` in the model's dtype and on its device; padding is 0, the mean colour.

        Raises:
            ModelError: another shape or dtype.
        """
        pixels = np.asarray(image.cpu() if isinstance(image, Tensor) else image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ModelError(
                f"preprocess takes one RGB image of shape (H, W, 3) and dtype uint8, was given {pixels.shape} and "
                f"{pixels.dtype}. Move the channels last and scale to 0 ... 255."
            )
        size = self.config.image_size
        height, width = _fit_longest_side(pixels.shape[0], pixels.shape[1], size)
        if max(pixels.shape[:2]) != size:
            # Pillow's antialiased bilinear filter is what the published weights were trained and scored with
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        scaled = torch.tensor(pixels).permute(2, 0, 1).float() / 255
        normalised = (scaled - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
        padded = F.pad(normalised, (0, size - width, 0, size - height))
        return padded.unsqueeze(0).to(self.prompt_encoder.no_mask_embed.weight)

    def encode(self, x: Tensor) -> Tensor:
        """Compute image embeddings ``(N, C, h, w)`` of preprocessed images ``(N, 3, S, S)``."""
        embedding: Tensor = self.image_encoder(x)
        return embedding

    def predict_masks(
        self,
        embedding: Tensor,
        *,
        original_size: tuple[int, int],
        boxes: Tensor | npt.NDArray[Any] | None = None,
        points: Tensor | npt.NDArray[Any] | None = None,
        labels: Tensor | npt.NDArray[Any] | None = None,
        masks: Tensor | None = None,
        multimask_output: bool = True,
    ) -> MaskPrediction:
        """Segment what P prompts of one image mean; what is given for a prompt is used together.

        Gradients flow unless the caller switches them off.

        Args:
            embedding: ``(1, C, h, w)``, from :meth:`encode`.
            original_size: (H, W) of the image before :meth:`preprocess`.
            boxes: ``(P, 4)``, left, top, right, bottom in pixels of the original image.
            points: ``(P, N, 2)``, x and y in pixels of the original image.
            labels: ``(P, N)``, 1 for a point on the object, 0 beside it, -1 to ignore it.
            masks: ``(P, 1, 4h, 4w)``, logits as in :attr:`MaskPrediction.low_res`.
            multimask_output: three masks for ambiguous prompts, or one for clear ones.

        Returns:
            Masks at the original size, predicted IoU, and the low-resolution logits.

        Raises:
            ModelError: no prompt, points without labels or the reverse, or shapes that do not fit.
        """
        mask_size = 4 * self.config.embedding_size
        _check_prompts(embedding, mask_size, boxes=boxes, points=points, labels=labels, masks=masks)
        located = None
        if points is not None:
            located = (self._to_prompt_frame(points, original_size), torch.as_tensor(labels, device=embedding.device))
        low_res, iou = self._decode(
            embedding,
            points=located,
            boxes=None if boxes is None else self._to_prompt_frame(boxes, original_size),
            masks=masks,
            multimask_output=multimask_output,
        )
        return MaskPrediction(self.postprocess_masks(low_res, original_size), iou, low_res)

    def decode_boxes(
        self, embeddings: Tensor, boxes: Sequence[npt.NDArray[Any]], original_sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Segment what the boxes of several images hold, all in one call of the decoder.

        Args:
            embeddings: ``(N, C, h, w)``, from :meth:`encode`.
            boxes: For each image ``(P, 4)``, left, top, right, bottom in pixels of the original image.
            original_sizes: (H, W) of each image before :meth:`preprocess`.

        Returns:
            For each image the mask logits ``(P, 3, 4h, 4w)`` of the padded square, for :meth:`postprocess_masks`, and
            the predicted IoU ``(P, 3)``. In last bits both depend on which images are decoded together.
        """
        counts = [len(some) for some in boxes]
        framed = [self._to_prompt_frame(some, size) for some, size in zip(boxes, original_sizes, strict=True)]
        of_prompt = embeddings.repeat_interleave(torch.tensor(counts, device=embeddings.device), dim=0)
        low_res, iou = self._decode(of_prompt, boxes=torch.cat(framed), multimask_output=True)
        return list(zip(torch.split(low_res, counts), torch.split(iou, counts), strict=True))

    def postprocess_masks(self, low_res: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Resize mask logits of the padded square to the original image.

        Args:
            low_res: ``(P, M, 4h, 4w)``.
            original_size: (H, W) of the original image.

        Returns:
            Logits ``(P, M, H, W)``.
        """
        size = self.config.prompt_size
        height, width = _fit_longest_side(*original_size, size)
        square = F.interpolate(low_res, (size, size), mode="bilinear", align_corners=False)
        return F.interpolate(square[..., :height, :width], original_size, mode="bilinear", align_corners=False)

    def _decode(
        self,
        embeddings: Tensor,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=masks)
        low_res, iou = self.mask_decoder(
            image_embeddings=embeddings,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )
        return low_res, iou

    def _to_prompt_frame(self, coordinates: Tensor | npt.NDArray[Any], original_size: tuple[int, int]) -> Tensor:
        """Scale x and y, alternating in the last dimension, from the original image to the prompt frame."""
        height, width = _fit_longest_side(*original_size, self.config.prompt_size)
        weight = self.prompt_encoder.no_mask_embed.weight
        points = torch.as_tensor(coordinates, device=weight.device).double()
        scale = points.new_tensor([width / original_size[1], height / original_size[0]])
        return (points * scale.repeat(points.shape[-1] // 2)).to(weight.dtype)


def build(name: str, *, device: str | torch.device = "cpu") -> EfficientViTSam:
    """Make a model with random weights, in evaluation mode.

    Args:
        name: a key of :data:`CONFIGS`: "l0", "l1", "l2", "xl0", "xl1" or "tiny".
        device: where the weights are made; on "meta" they take no memory and only shapes can be computed.

    Raises:
        ModelError: no model has this name.
    """
    if name not in CONFIGS:
        raise ModelError(f"no EfficientViT-SAM is called {name!r}. Choose one of: {', '.join(map(repr, CONFIGS))}.")
    with torch.device(device):
        return EfficientViTSam(CONFIGS[name]).eval()


def load(name: str, *, checkpoint: str | PathLike[str], device: str | torch.device = "cpu") -> EfficientViTSam:
    """Make a model with trained weights, in evaluation mode and float32.

    Args:
        name: as for :func:`build`.
        checkpoint: a ``.safetensors`` file or one of ``torch.save``, of any floating point dtype.
        device: where the model is put.

    Raises:
        ModelError: no model has this name, or the file cannot be read or holds the weights of something else.
    """
    model = build(name, device="meta")
    state = read_state_dict(checkpoint)
    mismatch = Mismatch.between(model.state_dict(), state)
    if mismatch:
        raise ModelError(
            f"{str(checkpoint)!r} does not hold the weights of {name!r}: {mismatch}.{_advice(name, state)}"
        )
    model.load_state_dict(state, assign=True)
    return model.float().to(device)


def _advice(name: str, state: dict[str, Tensor]) -> str:
    """Name the model whose weights these are, or are most like."""
    distances = {other: len(Mismatch.between(build(other, device="meta").state_dict(), state)) for other in CONFIGS}
    best = min(CONFIGS, key=lambda other: distances[other])
    if distances[best] == 0:
        return f" They are those of {best!r}: use load({best!r}, ...)."
    if distances[best] < distances[name]:
        return f" {best!r} is nearer, with {distances[best]} keys that do not fit; is the file complete?"
    return " No other model of this library is nearer; is it an EfficientViT-SAM checkpoint?"


def _image_encoder(config: EfficientViTSamConfig) -> ImageEncoder:
    backbone = Backbone(
        widths=config.widths,
        depths=config.depths,
        kinds=config.kinds,
        expansions=config.expansions,
        head_channels=config.head_channels,
        attention_kernel=config.attention_kernel,
    )
    stages = {f"stage{index}": width for index, width in enumerate(config.widths)}
    neck = Neck(
        dict(reversed(list(stages.items())[-NECK_STAGES:])),
        width=config.neck_width,
        depth=config.neck_depth,
        expansion=config.neck_expansion,
        out_channels=config.decoder_width,
        size=config.embedding_size,
    )
    return ImageEncoder(backbone, neck, out_channels=config.decoder_width)


def _fit_longest_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Scale (height, width) so that the longer one is ``side``, rounding half up as published."""
    scale = side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def _check_prompts(embedding: Tensor, mask_size: int, **prompts: Tensor | npt.NDArray[Any] | None) -> None:
    """Refuse what would only fail, or silently broadcast, deep inside the decoder."""
    if embedding.ndim != 4 or len(embedding) != 1:
        raise ModelError(
            f"predict_masks takes the embedding of one image, (1, C, h, w), was given {tuple(embedding.shape)}. "
            "Call it once for each image, or call the model itself on a batch."
        )
    shapes = {name: tuple(prompt.shape) for name, prompt in prompts.items() if prompt is not None}
    if not shapes:
        raise ModelError("predict_masks was given no prompt. Give boxes, points with labels, or masks.")
    if ("points" in shapes) != ("labels" in shapes):
        raise ModelError(
            f"points and labels go together, was given only {'points' if 'points' in shapes else 'labels'}. "
            "A label is 1 for a point on the object, 0 beside it."
        )
    prompt_count, point_count = next(iter(shapes.values()))[:1], shapes.get("points", ())[1:2]
    expected = {
        "boxes": (*prompt_count, 4),
        "points": (*prompt_count, *point_count, 2),
        "labels": (*prompt_count, *point_count),
        "masks": (*prompt_count, 1, mask_size, mask_size),
    }
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise ModelError(
                f"{name} of shape {shape} do not fit the other prompts and the model. Expected {PROMPT_FORMS[name]}, "
                f"here {expected[name]}, with the same number P of prompts in all that is given."
            )
