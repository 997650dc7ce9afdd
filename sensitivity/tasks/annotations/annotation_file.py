"""COCO annotation files, checked before anything is computed from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from sensitivity.errors import AnnotationError, TaskError
from sensitivity.records.storage.files import read_bytes
from sensitivity.tasks.annotations.checks import (
    Record,
    check_annotations,
    check_categories,
    check_image_sizes,
    check_links,
    check_segmentations,
    records_of,
)
from sensitivity.tasks.annotations.segmentations import Rle, as_rle
from sensitivity.tasks.fingerprint import fingerprint
from sensitivity.tasks.images.pixels import leaves_folder

MAX_ANNOTATION_BYTES = 2**33
"""Bytes of an annotation or result file. LVIS's largest has some 1.1 GB."""

_IMAGE_KEYS = ("id", "width", "height")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area")
_CATEGORY_KEYS = ("id", "name")


@dataclass(frozen=True)
class CocoAnnotations:
    """What a COCO-style file says, with the traps taken out.

    Annotation ids are renumbered from 1 in file order: pycocotools takes the id 0 for "unmatched" and then scores
    perfect boxes 0.252 instead of 1.0. A missing ``iscrowd`` is 0.

    Attributes:
        images: ``id``, ``width``, ``height`` and what else the file has, in file order.
        annotations: ``id``, ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels), ``area``,
            ``iscrowd`` and mostly ``segmentation``.
        categories: ``id`` and ``name``.
        origin: Where they are from, for messages.
        file_ids: How the file calls the annotation 1, 2 and so on, for messages.
    """

    images: tuple[Record, ...]
    annotations: tuple[Record, ...]
    categories: tuple[Record, ...]
    origin: str = field(default="the annotations given", compare=False, repr=False)
    file_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], *, with_masks: bool = False) -> Self:
        """Read and check a file.

        Args:
            source: Path of the JSON file, or what it holds.
            with_masks: Whether every annotation must have a segmentation.

        Raises:
            AnnotationError: If the file is missing or not JSON, if it lacks a key, if an id is no whole number or
                occurs twice, if an annotation belongs to no image or category, or if a size, box, area, crowd flag or
                (with masks) segmentation cannot be scored. The message names the record.
        """
        plain = source if isinstance(source, Mapping) else read_annotation_file(source)
        origin = "the annotations given" if isinstance(source, Mapping) else str(source)
        if not isinstance(plain, Mapping):
            raise AnnotationError(f"{origin} holds a {type(plain).__name__}; expected a COCO object with 'images'.")
        keys = (*_ANNOTATION_KEYS, "segmentation") if with_masks else _ANNOTATION_KEYS
        images = records_of(plain, "images", _IMAGE_KEYS, origin)
        check_image_sizes(images, origin)
        categories = records_of(plain, "categories", _CATEGORY_KEYS, origin)
        check_categories(categories, origin)
        annotations = records_of(plain, "annotations", keys, origin)
        check_annotations(annotations, origin)
        check_links(annotations, images, categories, origin)
        ids = tuple(annotation["id"] for annotation in annotations)
        renumbered = tuple({**annotation, "id": number} for number, annotation in enumerate(annotations, start=1))
        loaded = cls(tuple(images), renumbered, tuple(categories), origin=origin, file_ids=ids)
        if with_masks:
            check_segmentations(loaded.annotations, loaded.sizes, ids, origin)
        return loaded

    def first(self, limit: int | None) -> Self:
        """The first so many images with their annotations; all if None.

        Raises:
            TaskError: If ``limit`` is below 1.
        """
        if limit is None:
            return self
        if limit < 1:
            raise TaskError(f"limit={limit}: it must be 1 or more, or None for all images.")
        images = self.images[:limit]
        image_ids = {image["id"] for image in images}
        annotations = tuple(annotation for annotation in self.annotations if annotation["image_id"] in image_ids)
        return replace(self, images=images, annotations=annotations)

    @cached_property
    def category_ids(self) -> tuple[int, ...]:
        """All category ids of the file, ascending."""
        return tuple(sorted(category["id"] for category in self.categories))

    @cached_property
    def by_image(self) -> dict[int, list[Record]]:
        """Annotations of each image id, in file order; an image without annotations has an empty list."""
        by_image: dict[int, list[Record]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            by_image[annotation["image_id"]].append(annotation)
        return by_image

    @cached_property
    def sizes(self) -> dict[int, tuple[int, int]]:
        """(height, width) in pixels of each image id."""
        return {image["id"]: (image["height"], image["width"]) for image in self.images}

    @cached_property
    def masks(self) -> dict[int, Rle]:
        """Compressed RLE of each annotation id that has a segmentation; made once, on first use.

        Raises:
            AnnotationError: If a segmentation cannot be scored.
        """
        annotations = [annotation for annotation in self.annotations if annotation.get("segmentation")]
        ids = [self.file_ids[annotation["id"] - 1] if self.file_ids else annotation["id"] for annotation in annotations]
        check_segmentations(annotations, self.sizes, ids, self.origin)
        return {
            annotation["id"]: as_rle(annotation["segmentation"], *self.sizes[annotation["image_id"]])
            for annotation in annotations
        }

    def file_names(self) -> list[tuple[str, ...]]:
        """Where each image may be, relative to the image folder, best guess first.

        That is ``file_name`` or, as LVIS has it, the last one or two parts of ``coco_url``.

        Raises:
            AnnotationError: If an image has neither, or a name leads out of the folder.
        """
        return [_file_names(image) for image in self.images]

    def digest(self) -> str:
        """Hash of images, annotations and categories; formatting and key order of the file do not matter.

        Raises:
            AnnotationError: If a record holds something that JSON does not.
        """
        parts = (self.images, self.annotations, self.categories)
        try:
            return fingerprint(json.dumps(part, sort_keys=True, default=_plain) for part in parts)
        except (TypeError, ValueError, RecursionError) as error:
            raise AnnotationError(f"{self.origin} cannot be written as JSON: {error}. Give plain records.") from error


def read_annotation_file(path: str | Path) -> Any:
    """What a JSON file (UTF-8, with or without a byte order mark) holds.

    Raises:
        AnnotationError: If the file is missing, is a pipe or a device, is too large, cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_bytes(path, "annotation file", most=MAX_ANNOTATION_BYTES).decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise AnnotationError(f"no file at {path}. Give the path of a JSON file.") from error
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error}. Give a JSON file that can.") from error
    except ValueError as error:  # broken JSON, broken UTF-8, and numbers of more digits than Python reads
        raise AnnotationError(f"{path} is not JSON: {error}. Give a JSON file.") from error
    except RecursionError as error:
        raise AnnotationError(f"{path} is nested too deeply to be read. Give a COCO file.") from error


def _file_names(image: Record) -> tuple[str, ...]:
    url_parts = str(image.get("coco_url", "")).split("/")
    guesses = [image["file_name"]] if "file_name" in image else []
    if url_parts[-1]:
        guesses += [url_parts[-1], "/".join(url_parts[-2:])]
    if not guesses:
        raise AnnotationError(
            f"image {image['id']!r} has neither file_name nor coco_url; it has {sorted(map(str, image))}."
        )
    for guess in guesses:
        if not isinstance(guess, str) or not guess or leaves_folder(guess):
            raise AnnotationError(
                f"image {image['id']!r} has the file name {guess!r}; expected a name or a path inside the folder of "
                "images. Give a folder that holds all images, and names relative to it."
            )
    return tuple(guesses)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no JSON")
