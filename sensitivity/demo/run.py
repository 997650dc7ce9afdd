"""What ``sensitivity demo`` does: from a trained model to a scheme that keeps in high precision what breaks.

It uses what any user has: ``wrap``, ``calibrate``, ``analyze``, the study's table, plot and advice, and ``evaluate``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Prompts
from sensitivity.demo import story
from sensitivity.demo.scenes import CALIBRATION_SEED, HELD_OUT_SEED, draw_scene, write_scenes
from sensitivity.errors import StoreError, TaskError
from sensitivity.zoo.efficientvit_sam import EfficientViTSam, load

WEIGHTS = Path(__file__).with_name("weights.safetensors")
CALIBRATION_SCENES = 32
RECIPES = (sv.INT8, sv.INT4_WEIGHTS)

MAX_DROP = 0.25
"""In points: what the drops of the layers that are quantized may add up to."""


def run_demo(folder: str | Path, *, scenes: int, console: Console | None = None) -> tuple[Path, ...]:
    """Analyse the tiny EfficientViT-SAM on generated scenes, tell what is found, and write it down.

    Args:
        folder: made if absent; the results of an earlier run are replaced.
        scenes: how many to score on.
        console: where the story is told; None for stdout.

    Returns:
        What was written, in the order in which the story names it.

    Raises:
        StoreError: If the folder cannot be written.
        TaskError: If there are no scenes.
    """
    if scenes < 1:
        raise TaskError(f"{scenes} scenes cannot be scored. Give 1 or more; 48 take about a minute.")
    started, folder, console = time.perf_counter(), Path(folder), console or Console()
    try:
        images, annotations = write_scenes(folder / "scenes", scenes, HELD_OUT_SEED)
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error}. Give a folder of your own.") from error
    cores = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is too small to share: two threads mostly wait for each other
    sam = load("tiny", checkpoint=WEIGHTS)
    task = sv.PromptedMasks(images, annotations, segment=functools.partial(segment, sam), name="generated scenes")
    calibration = [sam.preprocess(draw_scene(CALIBRATION_SEED, index)[0]) for index in range(CALIBRATION_SCENES)]
    wrapped = sv.wrap(sam.image_encoder, calibration[0], name="EfficientViT-SAM tiny")
    story.tell_setting(console, wrapped, task, calibration_images=len(calibration))

    wrapped.calibrate(calibration, sv.INT8)
    torch.set_num_threads(cores)  # but layers can be shared out: one single-threaded process a core
    study = wrapped.analyze(task, RECIPES)
    torch.set_num_threads(1)
    story.tell_layers(console, study)

    protected = {name: study.protect(max_drop=MAX_DROP, recipe=name) for name in study.recipes}
    schemes = [study.protect(top=0, recipe=name) for name in study.recipes]
    schemes += [scheme for scheme in protected.values() if scheme.reasons]
    story.tell_schemes(console, study, [(scheme, wrapped.evaluate(task, scheme)) for scheme in schemes])

    written = write_results(folder, study, protected)
    story.tell_files(console, folder, written, seconds=time.perf_counter() - started)
    return tuple(written)


def segment(sam: EfficientViTSam, encoder: nn.Module, image: Any, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """What the task asks of a model, made of the encoder that is analysed and the rest of its SAM.

    Args:
        sam: prepares images and decodes embeddings.
        encoder: maps a prepared image to its embedding.
        image: ``(H, W, 3)`` uint8 RGB.
        prompts: boxes.

    Returns:
        Mask logits ``(P, 3, H, W)`` and predicted IoU ``(P, 3)``.
    """
    embedding = encoder(sam.preprocess(image))
    masks, iou, _ = sam.predict_masks(embedding, boxes=prompts.boxes, original_size=image.shape[:2])
    return masks, iou


def write_results(folder: Path, study: sv.Study, schemes: Mapping[str, sv.Scheme]) -> dict[Path, str]:
    """Write plot, report, table, study and the scheme of every recipe.

    Returns:
        Each file, and the folder of the scenes, with a few words on it.
    """
    plot, report, table = folder / "dips.png", folder / "report.html", folder / "layers.csv"
    study_file = folder / "study.json"
    study.plot(plot)
    study.to_html(report)
    study.table().to_csv(table, index=False)
    study.save(study_file)
    written = {
        folder / "scenes": "the images and annotations.json, in COCO format",
        plot: "every layer's score under each recipe",
        report: "the same as one page, with all layers",
        table: "all numbers, one row for each layer and recipe",
        study_file: "sv.Study.load opens it",
    }
    for name, scheme in schemes.items():
        file = folder / f"scheme-{name}.json"
        scheme.save(file)
        written[file] = "what to protect; sv.Scheme.load opens it"
    return written
