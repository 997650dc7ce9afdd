"""Train the tiny EfficientViT-SAM of the demo on generated scenes.

The shipped weights are what two runs wrote, in about an hour on one core::

    python -m sensitivity.demo.train --out first.safetensors
    python -m sensitivity.demo.train --out weights.safetensors --start first.safetensors --steps 2500 --scenes 10000
        --learning-rate 2e-3 --seed 1

As in SAM, of the three masks for an ambiguous prompt only the best one learns from a thing, and a head learns to
predict how good each mask is. Boxes are jittered, so that the model does not rely on their last pixel.

Source:
    Kirillov et al., *Segment Anything*, ICCV 2023, appendix A, for what is learned; the weights of the losses are ours.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from sensitivity.demo.scenes import CROWDED, HELD_OUT_SEED, TRAINING_SEED, Mask, draw_scene, write_scenes
from sensitivity.tasks.prompted import PromptedMasks
from sensitivity.zoo.efficientvit_sam import EfficientViTSam, build, load

CLEAR_PROMPT_EVERY = 4
"""Every so many steps the mask for clear prompts learns, else the three for ambiguous ones."""

SMALL_PIXELS = 250
"""Of a mask: below about this area a thing counts less in the cross-entropy the smaller it is."""

NORM_BATCHES = 100
"""Batches over which the statistics of batch norm are averaged at the end."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How long and how fast to train.

    Attributes:
        steps: batches to learn from.
        images: in a batch.
        prompts: boxes for each image of a batch.
        learning_rate: at its peak, after a short rise; falls to 0 along a cosine.
        seed: of weights, batches and jitter.
    """

    steps: int
    images: int = 16
    prompts: int = 4
    learning_rate: float
    seed: int


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene as the model sees it; S is the side of its input, s of its masks.

    Attributes:
        pixels: ``(3, S, S)`` float16, normalised and padded.
        masks: ``(T, s, s)`` uint8, how much of every pixel each of T things covers, 255 for all.
        boxes: ``(T, 4)`` float32, left, top, right, bottom in pixels of the input.
    """

    pixels: Tensor
    masks: Tensor
    boxes: Tensor


@dataclass(frozen=True, eq=False)
class Examples:
    """A batch: N images, P boxes each, and the masks that they mean.

    Attributes:
        images: ``(N, 3, S, S)`` float32.
        boxes: ``(N, P, 4)`` float32.
        masks: ``(N, P, 1, s, s)`` float32 in [0, 1].
    """

    images: Tensor
    boxes: Tensor
    masks: Tensor


def prepare(sam: EfficientViTSam, index: int) -> Scene:
    """Draw a scene of the training series and bring it into the model's frame."""
    image, objects = draw_scene(TRAINING_SEED, index, CROWDED)
    masks = torch.stack([_fit(mask, 4 * sam.config.embedding_size) for _, mask in objects])
    scale = sam.config.image_size / max(image.shape[:2])
    boxes = torch.tensor([_box(mask) for _, mask in objects]) * scale
    return Scene(sam.preprocess(image)[0].half(), masks, boxes)


def batches(scenes: Sequence[Scene], settings: TrainingSettings) -> Iterator[Examples]:
    """Random scenes, in each of them random things, with jittered boxes; without end."""
    rng = np.random.default_rng(settings.seed)
    while True:
        chosen = [scenes[index] for index in rng.integers(len(scenes), size=settings.images)]
        picks = [torch.from_numpy(rng.integers(len(scene.boxes), size=settings.prompts)) for scene in chosen]
        boxes = torch.stack([scene.boxes[picked] for scene, picked in zip(chosen, picks, strict=True)])
        masks = torch.stack([scene.masks[picked] for scene, picked in zip(chosen, picks, strict=True)])
        sides = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
        jitter = torch.from_numpy(rng.standard_normal(boxes.shape).astype(np.float32))
        yield Examples(
            torch.stack([scene.pixels for scene in chosen]).float(),
            boxes + jitter * (0.25 + 0.02 * sides),
            masks.unsqueeze(2).float() / 255,
        )


def loss(logits: Tensor, iou: Tensor, examples: Examples) -> Tensor:
    """Cross-entropy and dice of the best mask of every box, and the error of all predicted IoU.

    Args:
        logits: ``(N, P, M, s, s)``.
        iou: ``(N, P, M)``, as predicted.
        examples: what was asked, and the truth.

    Returns:
        A scalar.
    """
    truth = examples.masks
    entropy = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none").sum((-1, -2))
    # by the size of the thing: as a mean over the image, small things would hardly count
    entropy = entropy / (truth.sum((-1, -2)) + SMALL_PIXELS)
    soft = logits.sigmoid()
    dice = 1 - (2 * (soft * truth).sum((-1, -2)) + 1) / (soft.sum((-1, -2)) + truth.sum((-1, -2)) + 1)
    best = (entropy + dice).min(dim=-1).values
    predicted, true = logits.detach() > 0, truth > 0.5
    actual = (predicted & true).sum((-1, -2)) / (predicted | true).sum((-1, -2)).clamp(min=1)
    return best.mean() + F.mse_loss(iou, actual)


def train(sam: EfficientViTSam, scenes: Sequence[Scene], settings: TrainingSettings, *, checkpoint: Path) -> None:
    """Train in place, saving the weights now and then."""
    optimizer = torch.optim.AdamW(sam.parameters(), lr=settings.learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / settings.steps))
    started, running = time.perf_counter(), 0.0
    stream = batches(scenes, settings)
    sam.train()
    for step in range(1, settings.steps + 1):
        examples = next(stream)
        ambiguous = step % CLEAR_PROMPT_EVERY != 0
        logits, iou = sam(examples.images, examples.boxes, multimask_output=ambiguous)
        total = loss(logits, iou, examples)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += (total.item() - running) / min(step, 100)
        if step % 100 == 0:
            print(
                f"step {step} of {settings.steps}: loss {running:.4f}, {time.perf_counter() - started:.0f} s",
                flush=True,
            )
        if step % 500 == 0:
            save_file(sam.state_dict(), checkpoint)


@torch.no_grad()
def settle_norms(sam: EfficientViTSam, stream: Iterator[Examples]) -> None:
    """Replace the moving statistics of batch norm by averages under the final weights, and end the training."""
    sam.train()
    norms = [module for module in sam.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain average
    for _ in range(NORM_BATCHES):
        sam.encode(next(stream).images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    sam.eval()


@torch.no_grad()
def score(sam: EfficientViTSam, count: int) -> dict[str, float]:
    """Mean IoU, as fractions, on held-out scenes prompted with their boxes."""
    with tempfile.TemporaryDirectory() as folder:
        task = PromptedMasks(*write_scenes(folder, count, HELD_OUT_SEED))
        predictions: dict[int, Any] = {}
        for batch in task.batches():
            predictions.update(zip(batch.images, task.predict(sam, batch), strict=True))
        return task.score(predictions)


def main() -> None:
    """Train, score, and write the weights."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--start", type=Path, help="weights to go on from; without, random ones")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--scenes", type=int, default=5000, help="generated scenes to learn from")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    sam = load("tiny", checkpoint=options.start) if options.start else build("tiny")
    print(f"drawing {options.scenes} scenes", flush=True)
    scenes = [prepare(sam, index) for index in range(options.scenes)]
    settings = TrainingSettings(steps=options.steps, learning_rate=options.learning_rate, seed=options.seed)
    train(sam, scenes, settings, checkpoint=options.out)
    settle_norms(sam, batches(scenes, settings))
    save_file(sam.state_dict(), options.out)
    print(", ".join(f"{name} {value:.2%}" for name, value in score(sam, 200).items()))
    print(f"wrote {options.out}, {options.out.stat().st_size:,} bytes")


def _rate(progress: float) -> float:
    """Share of the peak learning rate at this share of the training."""
    rise = 0.03
    return progress / rise if progress < rise else 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise)))


def _fit(mask: Mask, size: int) -> Tensor:
    """Average the mask over the pixels of the model's output, padded as ``EfficientViTSam.preprocess`` pads images."""
    height, width = (round(side * size / max(mask.shape)) for side in mask.shape)
    resized = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
    return F.pad(torch.tensor(np.asarray(resized)), (0, size - width, 0, size - height))


def _box(mask: Mask) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


if __name__ == "__main__":
    main()
