"""The demo's network, task and images as a command line names them, e.g. ``sensitivity.demo.network:model``."""

from __future__ import annotations

import functools
import tempfile

from torch import Tensor

import sensitivity as sv
from sensitivity.demo.run import SCENES_AT_ONCE, uneven_sam
from sensitivity.demo.scenes import HELD_OUT_SEED, write_scenes
from sensitivity.demo.segment import SegmentBatch
from sensitivity.zoo.efficientvit_sam import EfficientViTSam

SCENES = 12
"""Scenes that the task is scored on: fewer than the demo's, so that a command takes seconds."""


def images() -> list[Tensor]:
    """Preprocessed scenes to measure ranges on, none of which is in the task."""
    return _sam()[1]


def model() -> sv.Wrapped:
    """The image encoder, wrapped under the name that the demo gives it."""
    sam, calibration = _sam()
    return sv.wrap(sam.image_encoder, calibration[0], name="EfficientViT-SAM tiny")


def task() -> sv.PromptedMasks:
    """Cutting out the things of scenes, which are drawn into a folder that is removed when the process ends."""
    pictures, annotations = write_scenes(_folder().name, SCENES, HELD_OUT_SEED)
    return sv.PromptedMasks(
        pictures, annotations, segment=SegmentBatch(_sam()[0]), batch_size=SCENES_AT_ONCE, name="generated scenes"
    )


@functools.cache
def _sam() -> tuple[EfficientViTSam, list[Tensor]]:
    return uneven_sam()


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sensitivity-scenes-")
