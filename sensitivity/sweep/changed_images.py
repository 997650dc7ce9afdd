"""Which images a scheme changes most, by their own score, with a small picture of each."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sensitivity.contracts import Batch, Seen, ShownImage, ShowsImages, Task
from sensitivity.errors import TaskError
from sensitivity.records import Scheme
from sensitivity.records.results.changed_images import ChangedImage, ChangedImagesRecord, ImageResult, SeenBox
from sensitivity.score import predict

LONGEST_SIDE = 320
"""Pixels of a picture's longer side."""

MOST_BOXES = 30
"""So many boxes of an image are kept, the best ones."""

_OVERLAY_RGB = (230, 0, 126)

Opened = Callable[[], AbstractContextManager[tuple[Callable[..., Any], Callable[[], AbstractContextManager[None]]]]]
"""Enters a model, in float or quantized: the model, and what is entered for the time of every batch."""


@dataclass(frozen=True)
class Limits:
    """How much is shown.

    Attributes:
        top: How many images.
        least_score: Boxes from this score on.
    """

    top: int
    least_score: float


def changed_images(
    task: Task, in_float: Opened, quantized: Opened, *, model: str, scheme: Scheme, limits: Limits
) -> ChangedImagesRecord:
    """Run all images of a task in float and quantized, and show those whose own score changes most.

    Args:
        task: Data and metric; it can show its images.
        in_float: Enters the model in float.
        quantized: Enters the quantized one.
        model: Name of the model.
        scheme: What was done to it.
        limits: How much is shown.

    Raises:
        TaskError: If the task cannot show its images, or has none.
    """
    if not isinstance(task, ShowsImages):
        raise TaskError(
            f"task={task.name!r} cannot show its images: a {type(task).__name__} has no methods picture and seen. Give "
            "a task with images in files (sv.CocoDetection, sv.SemanticSegmentation ...), or add the two methods."
        )
    before, after = _scores(task, in_float), _scores(task, quantized)
    if not before:
        raise TaskError(f"task={task.name!r} has no images: there is nothing to compare.")
    changes = {position: _change(before[position], after[position]) for position in before}
    worst = sorted((position for position in changes if changes[position]), key=lambda place: -changes[place])
    positions = worst[: limits.top]
    seen = [_seen(task, opened, task.batches(positions) if positions else ()) for opened in (in_float, quantized)]
    shown = tuple(
        _image(position, task.picture(position), scores, (seen[0][position], seen[1][position]), limits)
        for position in positions
        for scores in [(before[position], after[position])]
    )
    facts = (task.name, task.metric, task.unit, task.higher_is_better)
    return ChangedImagesRecord(model, *facts, scheme, len(before), limits.least_score, shown)


def _scores(task: Task, opened: Opened) -> dict[int, float | None]:
    """The metric of each image alone; None where it has none."""
    scores: dict[int, float | None] = {}
    with opened() as (model, around_batch):
        for batch in task.batches():
            with around_batch():
                predictions = predict(task, model, batch)
            for position, prediction in zip(batch.images, predictions, strict=True):
                score = float(task.score({position: prediction})[task.metric])
                scores[position] = score if math.isfinite(score) else None
    return scores


def _change(before: float | None, after: float | None) -> float:
    return 0.0 if before is None or after is None else abs(after - before)


def _seen(task: ShowsImages, opened: Opened, batches: Iterable[Batch]) -> Mapping[int, Seen]:
    """What a model says about some images."""
    seen: dict[int, Seen] = {}
    with opened() as (model, around_batch):
        for batch in batches:
            with around_batch():
                seen |= dict(zip(batch.images, task.seen(model, batch), strict=True))
    return seen


def _image(
    position: int,
    picture: ShownImage,
    scores: tuple[float | None, float | None],
    seen: tuple[Seen, Seen],
    limits: Limits,
) -> ChangedImage:
    small = Image.fromarray(picture.pixels)
    height, width = picture.pixels.shape[:2]
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    before, after = (_result(score, each, limits) for score, each in zip(scores, seen, strict=True))
    share, overlay = _changed_pixels(seen[0].pixels, seen[1].pixels, small.size)
    return ChangedImage(
        position, picture.name, width, height, _encoded(small, "JPEG", quality=80), before, after, picture.answer,
        share, overlay,
    )  # fmt: skip


def _result(score: float | None, seen: Seen, limits: Limits) -> ImageResult:
    boxes = tuple(
        SeenBox(label, float(confidence), _corners(corners))
        for label, confidence, corners in zip(seen.labels, seen.scores, seen.boxes, strict=True)
        if confidence >= limits.least_score
    )
    return ImageResult(score, seen.answer, boxes[:MOST_BOXES])


def _corners(corners: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(float(corner), 2) for corner in corners)
    return left, top, right, bottom


def _changed_pixels(
    before: npt.NDArray[Any] | None, after: npt.NDArray[Any] | None, size: tuple[int, int]
) -> tuple[float | None, bytes | None]:
    """The share of pixels that differ, and a picture of them of this (width, height)."""
    if before is None or after is None:
        return None, None
    differ = before != after
    small = Image.fromarray(differ.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    codes = Image.fromarray((np.asarray(small) >= 64).astype(np.uint8), mode="P")
    codes.putpalette([0, 0, 0, *_OVERLAY_RGB])
    return float(differ.mean()), _encoded(codes, "PNG", transparency=0, optimize=True)


def _encoded(image: Image.Image, form: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()
