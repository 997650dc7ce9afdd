"""Masks of objects as COCO files write them: polygons and run lengths, checked before pycocotools' C code reads them.

pycocotools trusts what it is given: a polygon that reaches far outside the image fills the memory, run lengths that do
not add up to the image give an IoU of -1, and a polygon of four numbers is taken for a box.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_tools

Rle: TypeAlias = dict[str, Any]
Size: TypeAlias = tuple[int, int]
Counts: TypeAlias = npt.NDArray[np.int64]

LARGEST_IMAGE = 2**29
"""Pixels of the largest image that masks are taken for: pycocotools counts in 32 bits and shifts them."""

_LONGEST_OUTLINE = 2**22
"""Pixels along a polygon: pycocotools keeps some 80 bytes for each of them while it draws the polygon."""

_STRINGS_AT_ONCE = 4096

# Characters of five bits each, a sixth bit says that more of the same number follow; seven make 35 bits.
_COMPRESSED = re.compile(rb"(?:[P-o]{0,6}[0-O])*")


def first_fault(segmentations: Iterable[tuple[Any, Size]]) -> tuple[int, str] | None:
    """The first segmentation that cannot be scored, if there is one.

    Args:
        segmentations: Each with the (height, width) of its image in pixels.

    Returns:
        Its place, counted from 0, and what is wrong with it, as the end of a sentence; or None.
    """
    places: list[int] = []
    strings: list[bytes] = []
    pixels: list[int] = []
    for place, (segmentation, size) in enumerate(segmentations):
        fault = _fault(segmentation, size)
        if fault is not None:
            earlier = _first_that_does_not_fit(places, strings, pixels)
            return earlier or (place, fault)
        if isinstance(segmentation, Mapping) and isinstance(segmentation["counts"], str | bytes):
            places.append(place)
            strings.append(_as_bytes(segmentation["counts"]))
            pixels.append(size[0] * size[1])
    return _first_that_does_not_fit(places, strings, pixels)


def as_rle(segmentation: Any, height: int, width: int) -> Rle:
    """A COCO segmentation (polygons, uncompressed or compressed RLE) as compressed RLE.

    Args:
        segmentation: As in a COCO file, without a fault: see ``first_fault``.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        ``{"size": [height, width], "counts": text}``, fit for JSON.
    """
    if not isinstance(segmentation, Mapping):
        polygons = [[float(number) for number in polygon] for polygon in segmentation]
        rle = mask_tools.merge(mask_tools.frPyObjects(polygons, height, width))
    elif isinstance(segmentation["counts"], str | bytes):
        rle = segmentation
    else:
        rle = mask_tools.frPyObjects({"size": [height, width], "counts": list(segmentation["counts"])}, height, width)
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


def whole_number(value: Any) -> int | None:
    """The value as an int where it is a whole number that fits 64 bits (``3`` or ``3.0``, no bool); else None."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    if isinstance(value, Integral):
        number = int(value)
    elif float(value).is_integer():
        number = int(float(value))
    else:
        return None
    return number if -(2**63) <= number < 2**63 else None


def finite_numbers(values: Any, count: int) -> bool:
    """Whether a value is a sequence of so many finite numbers, none of them a bool."""
    if not isinstance(values, list | tuple | np.ndarray) or len(values) != count:
        return False
    if set(map(type, values)) == {float}:  # as files have them: twenty times as fast
        return bool(np.isfinite(values).all())
    return all(finite_number(value) for value in values)


def finite_number(value: Any) -> bool:
    """Whether a value is a finite number that fits a float64, and no bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return bool(np.isfinite(float(value)))
    except OverflowError:  # an int of more than 1024 bits
        return False


def _fault(segmentation: Any, size: Size) -> str | None:
    """What is wrong with a segmentation, but for the contents of a compressed RLE."""
    if size[0] * size[1] > LARGEST_IMAGE:
        return f"is on an image of {size[0]} x {size[1]} pixels; masks are scored up to {LARGEST_IMAGE} pixels"
    if isinstance(segmentation, Mapping):
        return _rle_fault(segmentation, size)
    if not isinstance(segmentation, list | tuple):
        return f"has a segmentation that is a {type(segmentation).__name__}; expected polygons or RLE"
    if not segmentation:
        return "has an empty segmentation; expected polygons or RLE"
    return next((fault for fault in map(_polygon_fault, segmentation) if fault is not None), None)


def _polygon_fault(polygon: Any) -> str | None:
    if not isinstance(polygon, list | tuple | np.ndarray):
        kind = type(polygon).__name__
        return f"has a {kind} where a polygon should be; expected a list of polygons, each a list x, y, x, y and so on"
    if not len(polygon):
        return "has an empty segmentation: a polygon without points; expected polygons or RLE"
    if len(polygon) < 6 or len(polygon) % 2:
        return f"has a polygon of {len(polygon)} numbers; expected x and y of three points or more"
    if not finite_numbers(polygon, len(polygon)):
        return "has a polygon with something that is no finite number; expected x, y, x, y and so on in pixels"
    points = np.array(polygon, np.float64).reshape(-1, 2)
    if np.abs(points).max() > _LONGEST_OUTLINE:
        return f"has a polygon that reaches {np.abs(points).max():g} pixels far; expected pixels of its image"
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    if steps.sum() > _LONGEST_OUTLINE:
        return f"has a polygon of {steps.sum():g} pixels along its outline; {_LONGEST_OUTLINE} can be drawn"
    return None


def _rle_fault(rle: Mapping[str, Any], size: Size) -> str | None:
    missing = [key for key in ("size", "counts") if key not in rle]
    if missing:
        return f"has an RLE that lacks {missing}; expected 'size' and 'counts'"
    sizes = rle["size"]
    sides = [whole_number(side) for side in sizes] if isinstance(sizes, list | tuple | np.ndarray) else None
    if sides != list(size):
        return f"has an RLE of the (height, width) {_short(sizes)}, but its image has {size}"
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        return None if _is_compressed(counts) else f"has an RLE with the counts {_short(counts)}, which are no RLE text"
    if not isinstance(counts, list | tuple | np.ndarray):
        return f"has an RLE whose counts are a {type(counts).__name__}; expected text or a list of whole numbers"
    numbers = [whole_number(count) for count in counts]
    if any(number is None or number < 0 for number in numbers):
        return "has an RLE with a count that is no whole number of 0 or more"
    total = sum(number for number in numbers if number is not None)
    return None if total == size[0] * size[1] else _wrong_total(total, size[0] * size[1])


def _wrong_total(total: int, pixels: int) -> str:
    return f"has an RLE whose counts add up to {total} pixels, but its image has {pixels}"


def _is_compressed(counts: str | bytes) -> bool:
    try:
        return _COMPRESSED.fullmatch(_as_bytes(counts)) is not None
    except UnicodeEncodeError:
        return False


def _as_bytes(counts: str | bytes) -> bytes:
    return counts if isinstance(counts, bytes) else counts.encode("ascii")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _first_that_does_not_fit(
    places: Sequence[int], strings: Sequence[bytes], pixels: Sequence[int]
) -> tuple[int, str] | None:
    """The first compressed RLE whose counts do not make up its image, and what is wrong with it."""
    for start in range(0, len(strings), _STRINGS_AT_ONCE):
        part = slice(start, start + _STRINGS_AT_ONCE)
        lowest, totals = lowest_and_total(strings[part])
        wrong = np.flatnonzero((lowest < 0) | (totals != np.array(pixels[part], np.int64)))
        if len(wrong):
            index = int(wrong[0])
            if lowest[index] < 0:
                return places[start + index], "has an RLE with a negative count"
            return places[start + index], _wrong_total(int(totals[index]), pixels[start + index])
    return None


def lowest_and_total(strings: Sequence[bytes]) -> tuple[Counts, Counts]:
    """(N,) smallest count and (N,) sum of the counts of N compressed RLE; both 0 for an empty one.

    Args:
        strings: Each made of characters that are RLE text.

    Source:
        ``rleFrString`` of pycocotools 2.0.11: numbers of five bits a character, lowest first, in two's complement;
        from the fourth on each is the difference to the one before the last.
    """
    lowest, totals = np.zeros(len(strings), np.int64), np.zeros(len(strings), np.int64)
    codes = np.frombuffer(b"".join(strings), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return lowest, totals
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    shifts = 5 * (np.arange(len(codes)) - np.repeat(first, digits))
    numbers = np.add.reduceat((codes & 31) << shifts, first)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * digits), 0)
    ends = np.cumsum([len(string) for string in strings])
    owner = np.searchsorted(ends, last, side="right")
    place = np.arange(len(numbers)) - np.searchsorted(owner, owner)
    # the differences of odd and of even places are two sums of their own; the first count stands alone
    chain = owner * 3 + np.where(place == 0, 0, 1 + place % 2)
    order = np.argsort(chain, kind="stable")
    running = np.cumsum(numbers[order])
    begin = np.searchsorted(chain[order], chain[order])
    counts = running - np.where(begin > 0, running[begin - 1], 0)
    np.minimum.at(lowest, owner[order], counts)
    np.add.at(totals, owner[order], counts)
    return lowest, totals
