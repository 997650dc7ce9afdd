"""What ``sensitivity demo`` does: which layers break in int8, why, what cures them, and what is beyond cure.

It uses what any user has: ``wrap``, ``analyze``, ``diagnose``, ``tune``, the study's table, plot and advice, and
``evaluate``.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import sensitivity as sv
from sensitivity.demo import story
from sensitivity.demo.scenes import CALIBRATION_SEED, HELD_OUT_SEED, draw_scene, write_scenes
from sensitivity.demo.segment import SegmentBatch, segment
from sensitivity.demo.uneven import make_uneven
from sensitivity.errors import StoreError, TaskError
from sensitivity.report.tables.csv_file import write_csv
from sensitivity.zoo.efficientvit_sam import EfficientViTSam, load

__all__ = ["CALIBRATION_SCENES", "WEIGHTS", "run_demo", "segment", "uneven_sam"]

WEIGHTS = Path(__file__).with_name("weights.safetensors")
CALIBRATION_SCENES = 16
DIAGNOSED_SCENES = 4
SCENES_AT_ONCE = 8
CANDIDATES = (sv.INT8, sv.INT8_AFFINE)

MAX_DROP = 0.5
"""In points: what the whole network in int8 may lose."""

HURT_BELOW_DB = 30.0
"""SQNR of the encoder's output below which a dip counts as hurt: a thousandth of the output's power is noise."""


def run_demo(folder: str | Path, *, scenes: int, console: Console | None = None) -> tuple[Path, ...]:
    """Analyse, diagnose and tune the tiny EfficientViT-SAM on generated scenes, tell the story, and write it down.

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
        raise TaskError(f"{scenes} scenes cannot be scored. Give 1 or more; 32 take about half a minute.")
    started, folder, console = time.perf_counter(), Path(folder), console or Console()
    try:
        images, annotations = write_scenes(folder / "scenes", scenes, HELD_OUT_SEED)
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error}. Give a folder of your own.") from error
    cores = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is too small to share: two threads mostly wait for each other
    sam, calibration = uneven_sam()
    task = sv.PromptedMasks(
        images, annotations, segment=SegmentBatch(sam), batch_size=SCENES_AT_ONCE, name="generated scenes"
    )
    wrapped = sv.wrap(sam.image_encoder, calibration[0], name="EfficientViT-SAM tiny")
    story.tell_setting(console, wrapped, task, calibration_images=len(calibration))

    wrapped.calibrate(calibration, sv.INT8)
    torch.set_num_threads(cores)  # but layers can be shared out: one single-threaded process a core
    study = wrapped.analyze(task, sv.INT8)
    torch.set_num_threads(1)
    story.tell_layers(console, study)

    diagnosis = wrapped.diagnose(
        [torch.cat(calibration[:DIAGNOSED_SCENES])],
        sv.INT8,
        layers=study_dips(study) or "*",
        enough_db=HURT_BELOW_DB,
    )
    story.tell_causes(console, diagnosis)

    tuned = wrapped.tune(task, max_drop=MAX_DROP, calibration=calibration, candidates=CANDIDATES, engine=None)
    protected = study.protect(max_drop=MAX_DROP)
    story.tell_cures(console, tuned, study, protected, wrapped.evaluate(task, protected))

    written = write_results(folder, study, diagnosis, tuned)
    story.tell_files(console, folder, written, seconds=time.perf_counter() - started)
    return tuple(written)


def uneven_sam() -> tuple[EfficientViTSam, list[Tensor]]:
    """The trained network with channels as uneven as those that break, and preprocessed scenes to measure ranges on."""
    sam = load("tiny", checkpoint=WEIGHTS)
    calibration = [sam.preprocess(draw_scene(CALIBRATION_SEED, index)[0]) for index in range(CALIBRATION_SCENES)]
    make_uneven(sam.image_encoder, torch.cat(calibration))
    return sam, calibration


def study_dips(study: sv.Study) -> list[str]:
    """The layers that break, worst first."""
    verdicts = study.verdicts()
    drops = {measurement.layer: measurement.drop or 0.0 for measurement in study.of_recipe(None)}
    return sorted((name for name, verdict in verdicts.items() if verdict == "dip"), key=lambda name: -drops[name])


def write_results(folder: Path, study: sv.Study, diagnosis: sv.Diagnosis, tuned: sv.Tuned) -> dict[Path, str]:
    """Write the pictures, the pages, the table, and what can be loaded again.

    Returns:
        Each file, and the folder of the scenes, with a few words on it.
    """
    written = {
        folder / "scenes": "the images and annotations.json, in COCO format",
        folder / "dips.png": "every layer's score in int8",
        folder / "cures.png": "the damage of layers that dip, and what cures leave of it",
        folder / "tuned.png": "every step from int8 everywhere to the target",
        folder / "report.html": "the study as one page, with all layers",
        folder / "layers.csv": "all numbers, one row for each layer",
        folder / "study.json": "sv.Study.load opens it",
        folder / "diagnosis.json": "sv.Diagnosis.load opens it",
        folder / "tuned.json": "the scheme and every step; sv.Tuned.load opens it",
    }
    study.plot(folder / "dips.png")
    diagnosis.plot(folder / "cures.png")
    tuned.plot(folder / "tuned.png")
    study.to_html(folder / "report.html")
    write_csv(study.table(), folder / "layers.csv")
    study.save(folder / "study.json")
    diagnosis.save(folder / "diagnosis.json")
    tuned.save(folder / "tuned.json")
    return written
