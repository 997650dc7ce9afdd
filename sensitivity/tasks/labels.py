"""Where the true class of every pixel comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from sensitivity.errors import AnnotationError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.annotations.checks import Record
from sensitivity.tasks.annotations.segmentations import decode_mask, whole_number
from sensitivity.tasks.fingerprint import fingerprint
from sensitivity.tasks.images.pixels import leaves_folder, opened_image

LabelMap: TypeAlias = npt.NDArray[np.integer[Any]]

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@runtime_checkable
class LabelSource(Protocol):
    """Label maps of a data set, in a fixed order."""

    def file_names(self) -> Sequence[Sequence[str]]:
        """For each label map the possible names of its image, relative to the image folder, best guess first."""

    def read(self, position: int) -> LabelMap:
        """The class of every pixel, (H, W) integers.

        Raises:
            AnnotationError: If the label map cannot be read.
        """

    def digest(self) -> str:
        """Hash of all label maps and of how they are made."""


class PngLabels:
    """One PNG a label map, named as its image but for the suffix; palette images are read as indices (VOC).

    Args:
        folder: Where the label maps are.
        names: File names without suffix, e.g. the lines of VOC's ``val.txt``; None for all, in alphabetical order.
        values: The class that each value of a pixel stands for, such as ``{0: 0, 255: 1}`` for masks of 0 and 255, or
            ``{0: 255, 1: 0, 2: 1}`` for labels that count from 1; a value that it does not name is an error. None takes
            the values as classes.

    Raises:
        AnnotationError: If the folder is missing or holds no PNG, or a named one is missing or outside of it.
        TaskError: If ``values`` is no mapping of whole numbers, 0 or more.
    """

    @checked(TaskError)
    def __init__(
        self, folder: str | Path, *, names: Sequence[str] | None = None, values: Mapping[int, int] | None = None
    ) -> None:
        folder = Path(folder)
        self._values = None if values is None else _whole_values(values)
        if not folder.is_dir():
            raise AnnotationError(f"no folder of label maps at {folder}. Give the folder that holds the PNG files.")
        outside = [name for name in names or () if leaves_folder(f"{name}.png")]
        if outside:
            raise AnnotationError(f"the label map {outside[0]!r} would be outside {folder}. Give names inside of it.")
        self._paths = sorted(folder.glob("*.png")) if names is None else [folder / f"{name}.png" for name in names]
        missing = [path.name for path in self._paths if not path.is_file()]
        if missing or not self._paths:
            wrong = f"{len(missing)} label maps are not in {folder}: {missing[0]}" if missing else f"no PNG in {folder}"
            raise AnnotationError(f"{wrong}. A label map has the name of its image and the suffix .png.")

    def file_names(self) -> list[tuple[str, ...]]:
        """The image of each label map: the same name with .jpg, .jpeg or .png."""
        return [tuple(path.stem + suffix for suffix in _IMAGE_SUFFIXES) for path in self._paths]

    def read(self, position: int) -> LabelMap:
        """The class of every pixel, (H, W) integers.

        Raises:
            AnnotationError: If the file cannot be decoded or has colours instead of one index a pixel.
        """
        path = self._paths[position]
        with opened_image(path, AnnotationError, "a label map") as image:
            labels = np.asarray(image)
        if labels.dtype == bool:  # a PNG of one bit
            labels = labels.astype(np.uint8)
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            raise AnnotationError(
                f"{path} has pixels of {labels.shape[2:] or labels.dtype}; expected one class index a pixel "
                "(a grayscale or palette PNG). Convert colours to indices first."
            )
        return labels if self._values is None else _translated(labels, self._values, path)

    def digest(self) -> str:
        """Hash of names and contents of all files, and of ``values`` where they are given."""
        files = [part for path in self._paths for part in (path.name, path.read_bytes())]
        return fingerprint(files if self._values is None else [*files, repr(sorted(self._values.items()))])


class CocoLabels:
    """Label maps painted from COCO instances.

    Instances of the mapped categories are painted in descending order of their area, equal areas in file order, so
    that small objects lie on top. Then crowd regions of those categories mark what is still background as ignored.
    All other categories are background.

    Args:
        annotations: COCO JSON file with segmentations.
        classes: COCO category id to class index.
        background: Class of all other pixels.
        ignore_label: What crowd regions become.

    Raises:
        AnnotationError: If the annotation file is not sound, or does not know a category of ``classes``.
    """

    def __init__(
        self, annotations: str | Path, *, classes: Mapping[int, int], background: int = 0, ignore_label: int = 255
    ) -> None:
        self.annotations = CocoAnnotations.load(annotations, with_masks=True)
        unknown = sorted(set(classes) - set(self.annotations.category_ids))
        if unknown:
            raise AnnotationError(
                f"{annotations} has no categories {unknown[:5]}, which classes= maps. "
                f"It has {len(self.annotations.category_ids)}: {self.annotations.category_ids[:5]} ..."
            )
        self._classes = dict(classes)
        self._background = background
        self._ignore_label = ignore_label

    def file_names(self) -> list[tuple[str, ...]]:
        """The images of the annotation file, in its order."""
        return self.annotations.file_names()

    def read(self, position: int) -> LabelMap:
        """The class of every pixel, (H, W) int64."""
        image = self.annotations.images[position]
        labels = np.full((image["height"], image["width"]), self._background, np.int64)
        instances = self.annotations.by_image[image["id"]]
        painted = [instance for instance in instances if instance["category_id"] in self._classes]
        for instance in sorted(painted, key=lambda instance: -instance["area"]):
            if not instance["iscrowd"]:
                labels[self._mask(instance)] = self._classes[instance["category_id"]]
        for region in painted:
            if region["iscrowd"]:
                labels[self._mask(region) & (labels == self._background)] = self._ignore_label
        return labels

    def digest(self) -> str:
        """Hash of annotations and settings."""
        settings = (sorted(self._classes.items()), self._background, self._ignore_label)
        return fingerprint([self.annotations.digest(), repr(settings)])

    def _mask(self, annotation: Record) -> npt.NDArray[np.bool_]:
        return decode_mask(self.annotations.masks[annotation["id"]])


def _whole_values(values: Mapping[int, int]) -> dict[int, int]:
    """A copy of ``values`` in plain numbers.

    Raises:
        TaskError: If it is no mapping of whole numbers.
    """
    numbers = (
        [whole_number(number) for pair in values.items() for number in pair] if isinstance(values, Mapping) else []
    )
    whole = [number for number in numbers if number is not None and 0 <= number < 2**16]
    if not whole or len(whole) < len(numbers):
        raise TaskError(f"values={values!r:.80}: give a mapping of pixel values to classes, such as {{0: 0, 255: 1}}.")
    return dict(zip(whole[::2], whole[1::2], strict=True))


def _translated(labels: LabelMap, values: Mapping[int, int], path: Path) -> LabelMap:
    """The class that each pixel's value stands for, (H, W) int64.

    Raises:
        AnnotationError: If a value stands for none.
    """
    present, places = np.unique(labels, return_inverse=True)
    unknown = [int(value) for value in present if int(value) not in values]
    if unknown:
        raise AnnotationError(
            f"{path} has the values {unknown[:5]}, which values= does not name: {dict(values)!r:.80}."
        )
    classes = np.array([values[int(value)] for value in present], np.int64)
    return classes[places].reshape(labels.shape)
