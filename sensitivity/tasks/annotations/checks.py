"""What a COCO-style file must hold for its numbers to mean anything; each check names the record that fails it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sensitivity.errors import AnnotationError
from sensitivity.tasks.annotations.segmentations import finite_number, finite_numbers, first_fault, whole_number

Record: TypeAlias = dict[str, Any]

_LONGEST_SIDE = 2**31 - 1


def records_of(plain: Mapping[str, Any], part: str, keys: Sequence[str], origin: str) -> list[Record]:
    """The records of one list of the file, copied, with ids that are whole numbers and differ.

    Args:
        plain: What the file holds.
        part: ``images``, ``annotations`` or ``categories``.
        keys: What every record must have.
        origin: Where the records are from, for messages.

    Raises:
        AnnotationError: If there is no such list, a record is no object or lacks a key, or ids are not sound.
    """
    if not isinstance(plain.get(part), list | tuple):
        keys_found = sorted(map(str, plain))
        raise AnnotationError(f"{origin} has no list {part!r}; its keys are {keys_found}. Expected a COCO file.")
    records: list[Record] = []
    known_ids: set[int] = set()
    for position, record in enumerate(plain[part]):
        place = f"{part}[{position}] of {origin}"
        if not isinstance(record, Mapping):
            raise AnnotationError(f"{place} is a {type(record).__name__}; expected an object with {list(keys)}.")
        missing = [key for key in keys if key not in record]
        if missing:
            raise AnnotationError(f"{place} lacks {missing}; it has {sorted(map(str, record))}.")
        number = _whole(record["id"], "id", place)
        if number in known_ids:
            raise AnnotationError(f"{part} of {origin} has the id {number} twice. Number them differently.")
        known_ids.add(number)
        records.append({**record, "id": number})
    return records


def check_image_sizes(images: Sequence[Record], origin: str) -> None:
    """Make the sizes of all images ints.

    Raises:
        AnnotationError: If a width or height is no whole number of pixels.
    """
    for image in images:
        for key in ("width", "height"):
            side = whole_number(image[key])
            if side is None or not 1 <= side <= _LONGEST_SIDE:
                raise AnnotationError(
                    f"image {image['id']} of {origin} has the {key} {image[key]!r}; "
                    "expected a whole number of pixels, 1 or more."
                )
            image[key] = side


def check_categories(categories: Sequence[Record], origin: str) -> None:
    """Nothing, if every category has a name.

    Raises:
        AnnotationError: If one has none.
    """
    for category in categories:
        if not isinstance(category["name"], str | int) or isinstance(category["name"], bool):
            raise AnnotationError(
                f"category {category['id']} of {origin} has the name {category['name']!r}; expected text."
            )


def check_annotations(annotations: Sequence[Record], origin: str) -> None:
    """Make references and crowd flags of all annotations ints.

    Raises:
        AnnotationError: If a reference, box, area or crowd flag is not sound.
    """
    for annotation in annotations:
        place = f"annotation {annotation['id']} of {origin}"
        for key in ("image_id", "category_id"):
            annotation[key] = _whole(annotation[key], key, place)
        box = annotation["bbox"]
        if not finite_numbers(box, 4) or min(box[2], box[3]) < 0:
            raise AnnotationError(
                f"{place} has the bbox {box!r}; expected x, y, width, height in pixels, width and height 0 or more."
            )
        if not finite_number(annotation["area"]) or annotation["area"] < 0:
            raise AnnotationError(
                f"{place} has the area {annotation['area']!r}; expected a number of pixels, 0 or more."
            )
        flag = annotation.get("iscrowd", 0)
        if not isinstance(flag, bool | int | float) or flag not in (0, 1):
            raise AnnotationError(f"{place} has the iscrowd {flag!r}; expected 0 or 1.")
        annotation["iscrowd"] = int(flag)


def check_links(
    annotations: Sequence[Record], images: Sequence[Record], categories: Sequence[Record], origin: str
) -> None:
    """Nothing, if every annotation belongs to an image and a category.

    Raises:
        AnnotationError: If one does not.
    """
    for key, targets, part in (("image_id", images, "images"), ("category_id", categories, "categories")):
        known = {target["id"] for target in targets}
        unknown = [annotation for annotation in annotations if annotation[key] not in known]
        if unknown:
            raise AnnotationError(
                f"{len(unknown)} annotations of {origin} have a {key} that is not among its {part}: "
                f"annotation {unknown[0]['id']} has {unknown[0][key]!r}. Remove them or complete the file."
            )


def check_segmentations(
    annotations: Sequence[Record], sizes: Mapping[int, tuple[int, int]], ids: Sequence[int], origin: str
) -> None:
    """Nothing, if every annotation has a segmentation that can be scored.

    Args:
        annotations: What to check.
        sizes: (height, width) of each image id, in pixels.
        ids: How the file calls each of the annotations.
        origin: Where they are from, for messages.

    Raises:
        AnnotationError: If one has not.
    """
    fault = first_fault((annotation["segmentation"], sizes[annotation["image_id"]]) for annotation in annotations)
    if fault is not None:
        raise AnnotationError(
            f"annotation {ids[fault[0]]} of {origin} {fault[1]}. Mend or remove it, or score boxes instead of masks."
        )


def _whole(value: Any, key: str, place: str) -> int:
    number = whole_number(value)
    if number is None:
        raise AnnotationError(
            f"{place} has the {key} {value!r}; expected a whole number of at most 64 bits. "
            "Number the records of the file, and results that refer to them, with whole numbers."
        )
    return number
