"""COCO annotation files, checked before anything is computed from them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_tools

from sensitivity.errors import AnnotationError, TaskError
from sensitivity.tasks.fingerprint import fingerprint

_IMAGE_KEYS = ("id", "width", "height")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area")
_CATEGORY_KEYS = ("id", "name")

Record = dict[str, Any]
Rle = dict[str, Any]


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
    """

    images: tuple[Record, ...]
    annotations: tuple[Record, ...]
    categories: tuple[Record, ...]

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], *, with_masks: bool = False) -> Self:
        """Read and check a file.

        Args:
            source: Path of the JSON file, or what it holds.
            with_masks: Whether every annotation must have a segmentation.

        Raises:
            AnnotationError: If the file is missing or not JSON, if it lacks a key, if an id occurs twice, if an
                annotation belongs to no image or category, or if a box is not four finite numbers.
        """
        plain = source if isinstance(source, Mapping) else read_json(source)
        origin = "the annotations given" if isinstance(source, Mapping) else str(source)
        if not isinstance(plain, Mapping):
            raise AnnotationError(f"{origin} holds a {type(plain).__name__}; expected a COCO object with 'images'.")
        keys = (*_ANNOTATION_KEYS, "segmentation") if with_masks else _ANNOTATION_KEYS
        images = _records(plain, "images", _IMAGE_KEYS, origin)
        annotations = _records(plain, "annotations", keys, origin)
        categories = _records(plain, "categories", _CATEGORY_KEYS, origin)
        _check_links(annotations, images, categories, origin)
        for annotation in annotations:
            _check_shape(annotation, with_masks, origin)
        renumbered = tuple({"iscrowd": 0, **known, "id": number} for number, known in enumerate(annotations, start=1))
        return cls(tuple(images), renumbered, tuple(categories))

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
        kept = {image["id"] for image in images}
        annotations = tuple(annotation for annotation in self.annotations if annotation["image_id"] in kept)
        return replace(self, images=images, annotations=annotations)

    @cached_property
    def category_ids(self) -> tuple[int, ...]:
        """All category ids of the file, ascending."""
        return tuple(sorted(category["id"] for category in self.categories))

    @cached_property
    def by_image(self) -> dict[int, list[Record]]:
        """Annotations of each image id, in file order; an image without annotations has an empty list."""
        found: dict[int, list[Record]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            found[annotation["image_id"]].append(annotation)
        return found

    @cached_property
    def sizes(self) -> dict[int, tuple[int, int]]:
        """(height, width) in pixels of each image id."""
        return {image["id"]: (image["height"], image["width"]) for image in self.images}

    @cached_property
    def masks(self) -> dict[int, Rle]:
        """Compressed RLE of each annotation id that has a segmentation; made once, on first use."""
        return {
            annotation["id"]: as_rle(annotation["segmentation"], *self.sizes[annotation["image_id"]])
            for annotation in self.annotations
            if annotation.get("segmentation")
        }

    def file_names(self) -> list[tuple[str, ...]]:
        """Where each image may be, relative to the image folder, best guess first.

        That is ``file_name`` or, as LVIS has it, the last one or two parts of ``coco_url``.

        Raises:
            AnnotationError: If an image has neither.
        """
        return [_file_names(image) for image in self.images]

    def digest(self) -> str:
        """Hash of images, annotations and categories; formatting and key order of the file do not matter."""
        parts = (self.images, self.annotations, self.categories)
        return fingerprint(json.dumps(part, sort_keys=True, default=_plain) for part in parts)


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        AnnotationError: If the file is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AnnotationError(f"no file at {path}. Give the path of a JSON file.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} is not JSON: {error}. Give a JSON file.") from error


def as_rle(segmentation: Any, height: int, width: int) -> Rle:
    """A COCO segmentation (polygons, uncompressed or compressed RLE) as compressed RLE.

    Args:
        segmentation: As in a COCO file.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        ``{"size": [height, width], "counts": text}``, fit for JSON.
    """
    if isinstance(segmentation, list):
        rle = mask_tools.merge(mask_tools.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = mask_tools.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def encode_mask(mask: npt.NDArray[np.bool_]) -> Rle:
    """A mask (H, W) of bools as compressed RLE."""
    return as_rle(mask_tools.encode(np.asfortranarray(mask, dtype=np.uint8)), *mask.shape)


def decode_mask(rle: Rle) -> npt.NDArray[np.bool_]:
    """The mask (H, W) of bools that a compressed RLE holds."""
    with warnings.catch_warnings():
        # pycocotools 2.0.11 hands its array to numpy 2 in a way that numpy will stop to take one day; the mask is right
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        mask: npt.NDArray[np.bool_] = mask_tools.decode(rle).astype(bool)
    return mask


def _records(plain: Mapping[str, Any], part: str, keys: Sequence[str], origin: str) -> list[Record]:
    if not isinstance(plain.get(part), list):
        raise AnnotationError(f"{origin} has no list {part!r}; its keys are {sorted(plain)}. Expected a COCO file.")
    records: list[Record] = plain[part]
    seen: set[Any] = set()
    for position, record in enumerate(records):
        missing = [key for key in keys if key not in record]
        if missing:
            raise AnnotationError(f"{part}[{position}] of {origin} lacks {missing}; it has {sorted(record)}.")
        if record["id"] in seen:
            raise AnnotationError(f"{part} of {origin} has the id {record['id']!r} twice. Number them differently.")
        seen.add(record["id"])
    return records


def _check_links(
    annotations: Sequence[Record], images: Sequence[Record], categories: Sequence[Record], origin: str
) -> None:
    for key, targets, part in (("image_id", images, "images"), ("category_id", categories, "categories")):
        known = {target["id"] for target in targets}
        unknown = [annotation for annotation in annotations if annotation[key] not in known]
        if unknown:
            raise AnnotationError(
                f"{len(unknown)} annotations of {origin} have a {key} that is not among its {part}: "
                f"annotation {unknown[0]['id']} has {unknown[0][key]!r}. Remove them or complete the file."
            )


def _check_shape(annotation: Record, with_masks: bool, origin: str) -> None:
    box = annotation["bbox"]
    if not isinstance(box, Sequence) or len(box) != 4 or not all(_finite(number) for number in box):
        raise AnnotationError(
            f"annotation {annotation['id']} of {origin} has the bbox {box!r}; expected x, y, width, height in pixels."
        )
    if not _finite(annotation["area"]):
        raise AnnotationError(
            f"annotation {annotation['id']} of {origin} has the area {annotation['area']!r}; expected a number."
        )
    if with_masks and not _has_mask(annotation["segmentation"]):
        raise AnnotationError(
            f"annotation {annotation['id']} of {origin} has an empty segmentation; expected polygons or RLE. "
            "Remove it, or score boxes instead of masks."
        )


def _finite(number: Any) -> bool:
    return isinstance(number, Real) and math.isfinite(number)


def _has_mask(segmentation: Any) -> bool:
    if isinstance(segmentation, list):
        return bool(segmentation) and min(len(polygon) for polygon in segmentation) >= 4
    return isinstance(segmentation, Mapping) and {"size", "counts"} <= set(segmentation)


def _file_names(image: Record) -> tuple[str, ...]:
    url_parts = str(image.get("coco_url", "")).split("/")
    guesses = [str(image["file_name"])] if "file_name" in image else []
    if url_parts[-1]:
        guesses += [url_parts[-1], "/".join(url_parts[-2:])]
    if not guesses:
        raise AnnotationError(f"image {image['id']!r} has neither file_name nor coco_url; it has {sorted(image)}.")
    return tuple(guesses)


def _plain(value: Any) -> Any:
    return value.decode("ascii") if isinstance(value, bytes) else value.tolist()
