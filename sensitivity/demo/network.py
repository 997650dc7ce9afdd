"""The demo's network, task and images as a command line names them, e.g. ``sensitivity.demo.network:model``."""

from __future__ import annotations

import functools
import tempfile

from torch import Tensor

import sensitivity as sv
from sensitivity.demo.run import CALIBRATION_SCENES, WEIGHTS, segment
from sensitivity.demo.scenes import CALIBRATION_SEED, HELD_OUT_SEED, draw_scene, write_scenes
from sensitivity.zoo.efficientvit_sam import EfficientViTSam, load

SCENES = 12
"""Scenes that the task is scored on: a quarter of the demo's, so that a command takes seconds."""


@functools.cache
def sam() -> EfficientViTSam:
    """The trained network that the demo quantizes."""
    return load("tiny", checkpoint=WEIGHTS)


def images() -> list[Tensor]:
    """Preprocessed scenes to measure ranges on, none of which is in the task."""
    return [sam().preprocess(draw_scene(CALIBRATION_SEED, index)[0]) for index in range(CALIBRATION_SCENES)]


def model() -> sv.Wrapped:
    """The image encoder, wrapped under the name that the demo gives it."""
    example = sam().preprocess(draw_scene(CALIBRATION_SEED, 0)[0])
    return sv.wrap(sam().image_encoder, example, name="EfficientViT-SAM tiny")


def task() -> sv.PromptedMasks:
    """Cutting out the things of scenes, which are drawn into a folder that is removed when the process ends."""
    pictures, annotations = write_scenes(_folder().name, SCENES, HELD_OUT_SEED)
    return sv.PromptedMasks(pictures, annotations, segment=functools.partial(segment, sam()), name="generated scenes")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sensitivity-scenes-")
