"""Scenes that are drawn, not photographed, with exact masks in COCO format: data that needs no download.

A scene is a textured background with at least two textured things on it, from about 16 pixels across to most of the
image. Nearer ones hide parts of farther ones; a thing's mask is the part of it that can be seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as mask_tools

from sensitivity.demo.shapes import OUTLINES
from sensitivity.demo.textures import paint

TRAINING_SEED, HELD_OUT_SEED, CALIBRATION_SEED = 1, 2, 3
"""Of series that share no scene: the weights learned from the first, the demo uses the others."""

SIZES = ((160, 160), (160, 160), (160, 120), (120, 160))
"""Height and width in pixels; one is drawn for each scene."""

LARGEST_RADIUS = 100.0
LEAST_VISIBLE_PIXELS = 80

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How hard a scene is.

    Attributes:
        most_things: drawn in a scene; there may be fewer, at least two.
        smallest_radius: of a thing in pixels, before it is stretched and cut.
        least_visible: share of a thing that must be seen for it to be annotated.
    """

    most_things: int
    smallest_radius: float
    least_visible: float


CLEAR = Style(most_things=6, smallest_radius=10.0, least_visible=0.6)
CROWDED = Style(most_things=8, smallest_radius=7.0, least_visible=0.4)
"""The demo's scenes are clear; the weights learned from crowded ones, which hold all that clear ones hold and more."""


def draw_scene(seed: int, index: int, style: Style = CLEAR) -> tuple[Pixels, list[tuple[str, Mask]]]:
    """Draw one scene; the same seed, index and style give the same scene, however many others are drawn.

    Args:
        seed: of the series, 0 or more.
        index: of the scene in the series, 0 or more.
        style: how hard it is.

    Returns:
        The image ``(H, W, 3)`` uint8 RGB, and for every thing in it, farthest first, its category and its mask
        ``(H, W)``. There are at least two things, and masks do not overlap.
    """
    rng = np.random.default_rng([seed, index])
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    image, objects = _draw(rng, height, width, style)
    while len(objects) < 2:  # one thing may have hidden all others
        image, objects = _draw(rng, height, width, style)
    grain = rng.normal(0, 4, image.shape)
    return np.clip(np.rint(image + grain), 0, 255).astype(np.uint8), objects


def draw_scenes(count: int, seed: int) -> tuple[list[Pixels], dict[str, Any]]:
    """Draw a series of scenes.

    Args:
        count: how many.
        seed: of the series, 0 or more; series of different seeds share no scene.

    Returns:
        The images, each ``(H, W, 3)`` uint8 RGB, and their annotations as a COCO dictionary: instances with compressed
        RLE masks, areas in pixels, boxes ``x, y, width, height``, and ids that count from 1.
    """
    images: list[Pixels] = []
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    numbers = {name: number for number, name in enumerate(OUTLINES, start=1)}
    for index in range(count):
        image, objects = draw_scene(seed, index)
        images.append(image)
        height, width = image.shape[:2]
        records.append({"id": index + 1, "file_name": f"{index + 1:06d}.png", "height": height, "width": width})
        for category, mask in objects:
            place = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": numbers[category]}
            annotations.append(place | _annotate(mask))
    return images, {
        "info": {"description": f"{count} scenes drawn with seed {seed}"},
        "images": records,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }


def write_scenes(folder: str | Path, count: int, seed: int) -> tuple[Path, Path]:
    """Draw a series of scenes into a folder.

    Args:
        folder: made if absent; scenes that lie there under the same names are replaced.
        count: how many.
        seed: as for :func:`draw_scenes`.

    Returns:
        The folder of PNG images and the annotation file.
    """
    image_folder, annotation_file = Path(folder) / "images", Path(folder) / "annotations.json"
    image_folder.mkdir(parents=True, exist_ok=True)
    images, coco = draw_scenes(count, seed)
    for image, record in zip(images, coco["images"], strict=True):
        Image.fromarray(image).save(image_folder / record["file_name"])
    annotation_file.write_text(json.dumps(coco), encoding="utf-8")
    return image_folder, annotation_file


def _draw(rng: np.random.Generator, height: int, width: int, style: Style) -> tuple[Floats, list[tuple[str, Mask]]]:
    """Background first, then things from the farthest to the nearest."""
    image = paint(rng, height, width, contrast=0.4)
    placed: list[tuple[str, Mask]] = []
    names = list(OUTLINES)
    for radius in _radii(rng, style):
        category = names[int(rng.integers(len(names)))]
        outline = OUTLINES[category](rng).placed(
            centre=(rng.uniform(0.05, 0.95) * width, rng.uniform(0.05, 0.95) * height),
            radius=radius,
            stretch=rng.uniform(0.6, 1.6),
            angle=rng.uniform(0, 2 * np.pi),
        )
        surface = paint(rng, height, width, contrast=0.7)
        coverage = outline.coverage(height, width)
        image += coverage[..., None] * (surface - image)
        placed.append((category, coverage >= 0.5))
    return image, _visible(placed, style.least_visible)


def _radii(rng: np.random.Generator, style: Style) -> Floats:
    """Farther things are mostly larger, or they would be hidden."""
    count = int(rng.integers(2, style.most_things + 1))
    radii = rng.uniform(style.smallest_radius**0.5, LARGEST_RADIUS**0.5, count) ** 2
    return radii[np.argsort(-radii * rng.uniform(0.6, 1.6, count))]


def _visible(placed: list[tuple[str, Mask]], least_share: float) -> list[tuple[str, Mask]]:
    """Cut what nearer things hide, and leave out things of which hardly anything is left."""
    visible: list[tuple[str, Mask]] = []
    hidden = np.zeros_like(placed[0][1])
    for category, mask in reversed(placed):
        visible_part = mask & ~hidden
        hidden |= mask
        if visible_part.sum() >= max(LEAST_VISIBLE_PIXELS, least_share * mask.sum()):
            visible.append((category, visible_part))
    return visible[::-1]


def _annotate(mask: Mask) -> dict[str, Any]:
    rle = mask_tools.encode(np.asfortranarray(mask, np.uint8))
    return {
        "segmentation": {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")},
        "area": int(mask_tools.area(rle)),
        "bbox": [float(side) for side in mask_tools.toBbox(rle)],
        "iscrowd": 0,
    }
