"""What a store's file holds of an array: as many bytes as the array needs and no more, and bits that are values."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

_LAST_CHARACTER = 0x10FFFF


def decompressed(data: bytes, size: int) -> bytearray:
    """The content of arrays; never more of it than they need.

    Args:
        data: Compressed by zlib.
        size: How many bytes the arrays have.

    Raises:
        ValueError: If it is less or more.
    """
    reader = zlib.decompressobj()
    content = bytearray(reader.decompress(data, size + 1))
    if len(content) != size or not reader.eof or reader.unused_data:
        raise ValueError(f"data that is not that of arrays of {size} bytes")
    return content


def check_bits(array: np.ndarray[Any, Any]) -> None:
    """Refuse bits that are no truth value, and code points that are no character: numpy would use them all the same."""
    if array.dtype.kind == "b" and array.size and int(array.view(np.uint8).max()) > 1:
        raise ValueError("truth values that are neither true nor false")
    if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
        points = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        if bool((points > _LAST_CHARACTER).any()):
            raise ValueError("text with numbers that are no characters")
