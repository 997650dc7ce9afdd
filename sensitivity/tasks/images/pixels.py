"""Image files as 8-bit pixels: which formats are opened, how large they may be, and what their numbers mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sensitivity.errors import ImageError, TaskError
from sensitivity.records.storage.files import check_regular

Pixels: TypeAlias = npt.NDArray[np.uint8]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are opened, by content and not by suffix; Pillow knows others that run programs (EPS) or fetch files."""

_LONGEST_HEADER = 2**16
_NETPBM = {numbers: re.compile(rb"(?:(?:\s|#[^\r\n]*[\r\n])+[-+.\de]+){%d}\s" % numbers) for numbers in (2, 3)}
"""So many numbers between spaces and comments, and what ends the last one."""
_FULL_SCALES = (1.0, 255.0, 65535.0)


def leaves_folder(name: str) -> bool:
    """Whether a relative file name leads out of its folder, read as POSIX or as Windows would.

    Links inside the folder are not followed here: whoever made the folder may link where they like.

    Example:
        >>> [leaves_folder(name) for name in ("a/b.jpg", "a/../b.jpg", "../b.jpg", "/b.jpg", "C:/b.jpg")]
        [False, False, True, True, True]
    """
    if "\0" in name or re.match(r"[\\/]|[A-Za-z]:[\\/]", name):
        return True
    depth = 0
    for part in re.split(r"[\\/]", name):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return True
    return False


@contextmanager
def opened_image(path: Path, error_type: type[TaskError], content: str) -> Iterator[Image.Image]:
    """An image file, its header read and its pixels not; whatever Pillow raises until the block ends is translated.

    Args:
        path: One of ``FORMATS``. Of several frames or pages the first is meant.
        error_type: What to raise.
        content: What the file should be, for the message: ``an image``.

    Raises:
        TaskError: If the file is missing, of another format, broken, cut off, or has too many pixels (Pillow's limit
            of twice ``PIL.Image.MAX_IMAGE_PIXELS``, some 179 million). It is of the ``error_type``; the message names
            the file.
    """
    try:
        check_regular(path)
        _check_header_ends(path)
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except (TaskError, MemoryError):
        raise
    except Exception as error:
        known = ", ".join(FORMATS)
        raise error_type(
            f"{path} cannot be read as {content}: {error}. Replace the file or leave it out. Formats read: {known}."
        ) from error


def _check_header_ends(path: Path) -> None:
    """Refuse a netpbm file whose header goes on and on: Pillow would read its comments byte by byte.

    Raises:
        ValueError: If so.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    if not re.match(rb"P[1-6Ff]", start) or len(start) < _LONGEST_HEADER:
        return
    numbers = 2 if start[1:2] in (b"1", b"4") else 3  # bitmaps have no largest value
    if not _NETPBM[numbers].match(start, 2):
        raise ValueError(f"its header has no end in {_LONGEST_HEADER} bytes")


def read_image(path: Path) -> Pixels:
    """An image file as RGB of 8 bits, whatever it holds.

    Grayscale, palette and CMYK are converted; transparency is dropped, the colours below it stay; of an animation the
    first frame is taken. 16 bits become 8 by dividing by 257, so 65535 is 255. Numbers of 32 bits (float or int) say
    nothing of their range: the smallest of 0..1 (float alone), 0..255 and 0..65535 that holds all of them is taken.

    The EXIF orientation is NOT applied: COCO, LVIS and VOC annotate the pixels as they are stored.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: If the file cannot be decoded, is of a format that is not read, has too many pixels, or numbers
            outside 0..65535; the message names it.
    """
    with opened_image(path, ImageError, "an image") as image:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            gray = _eight_bits(np.asarray(image), path)
            return np.repeat(gray[..., None], 3, axis=2)
        if image.mode in ("P", "PA"):
            # straight to RGB, Pillow warns of palettes with transparency
            return np.asarray(image.convert("RGBA").convert("RGB"))
        return np.asarray(image.convert("RGB"))


def _eight_bits(values: npt.NDArray[np.generic], path: Path) -> Pixels:
    """(H, W) numbers of 16 or 32 bits as uint8.

    Raises:
        ImageError: If they are not finite, or of no range that is known.
    """
    if values.dtype.itemsize == 2:
        return (values.astype(np.uint16) // 257).astype(np.uint8)
    numbers = values.astype(np.float64)
    lowest, highest = float(numbers.min()), float(numbers.max())
    scales = _FULL_SCALES if np.issubdtype(values.dtype, np.floating) else _FULL_SCALES[1:]
    scale = next((scale for scale in scales if lowest >= 0 and highest <= scale), None)
    if scale is None:  # a NaN is in no range
        raise ImageError(
            f"{path} has {values.dtype} pixels from {lowest:g} to {highest:g}; expected 0 to 1 (float), 0 to 255 or "
            "0 to 65535. Convert the image to 8 bits as the model was trained with."
        )
    return np.floor(numbers * (255.0 / scale) + 1e-4).astype(np.uint8)
