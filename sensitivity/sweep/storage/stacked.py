"""Arrays of many images as one: narrower where that loses no bit, byte by byte, and compressed together.

A unit of a sweep holds the predictions of a batch, each a dict of small arrays with the same names. Written one by one
they compress badly: every array has its own dictionary and header, and the bytes that tell something stand between
those that are noise.
"""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from sensitivity.sweep.storage.content import check_bits, decompressed

Array = npt.NDArray[Any]

_LEVEL = 6  # of zlib's: these arrays are large enough for it to pay
_NARROWER = {"<f8": ("<f4",), "<i8": ("|u1", "<i2", "<i4")}
_PLAIN = re.compile(r"[<>|=][biuf]\d{1,2}")
_KINDS = "biuf"
_WIDEST = 8  # bytes of an element: wider numbers have bytes that mean nothing
_MOST_DIMENSIONS = 32


def can_be_stacked(trees: Sequence[Any]) -> bool:
    """Whether these are dicts of plain arrays that differ in their first dimension alone, two at least."""
    if len(trees) < 2 or not all(type(tree) is dict and tree for tree in trees):
        return False
    first = trees[0]
    return all(type(name) is str for name in first) and all(
        list(tree) == list(first) and all(map(_alike, tree.values(), first.values())) for tree in trees
    )


def _alike(array: Any, other: Any) -> bool:
    if type(array) is not np.ndarray or type(other) is not np.ndarray or not array.ndim:
        return False
    plain = array.dtype.kind in _KINDS and array.dtype.isnative and array.itemsize <= _WIDEST
    return plain and array.dtype == other.dtype and array.shape[1:] == other.shape[1:]


def stack_arrays(trees: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """Such dicts in a form that ``json`` can write: for each name the lengths of its arrays, and all of them as one."""
    return {name: _packed([tree[name] for tree in trees]) for name in trees[0]}


def unstack_arrays(plain: Mapping[str, Any], count: int, *, most_bytes: int) -> list[dict[str, Array]]:
    """The dicts that ``stack_arrays`` was given.

    Args:
        plain: What it made.
        count: How many dicts there were.
        most_bytes: Bytes of one array that are never exceeded.

    Raises:
        ValueError: If it cannot have made this; also ``KeyError``, ``TypeError`` and ``zlib.error``.
    """
    if not isinstance(plain, dict) or not plain:
        raise ValueError(f"{plain!r:.60} in the place of arrays by name")
    columns = {name: _unpacked(packed, count, most_bytes) for name, packed in plain.items()}
    return [{name: column[place] for name, column in columns.items()} for place in range(count)]


def _packed(arrays: Sequence[Array]) -> dict[str, Any]:
    whole = np.concatenate(arrays)
    narrow = (_as(whole, name) for name in _NARROWER.get(whole.dtype.str, ()))
    stored = next((array for array in narrow if _same_bits(array, whole)), whole)
    layouts = {"elements": stored.tobytes(), "places": _by_place(stored)}
    compressed = {layout: zlib.compress(content, _LEVEL) for layout, content in layouts.items()}
    layout, data = min(compressed.items(), key=lambda pair: len(pair[1]))
    return {
        "dtype": whole.dtype.str,
        "stored": stored.dtype.str,
        "layout": layout,
        "lengths": [len(array) for array in arrays],
        "shape": list(whole.shape[1:]),
        "data": base64.b85encode(data).decode("ascii"),
    }


def _as(array: Array, dtype: str) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def _same_bits(narrow: Array, array: Array) -> bool:
    return narrow.astype(array.dtype).tobytes() == array.tobytes()


def _by_place(array: Array) -> bytes:
    """First the first byte of every element, then the second, and so on: the first ones of numbers are alike."""
    return np.ascontiguousarray(np.frombuffer(array.tobytes(), np.uint8).reshape(-1, array.itemsize).T).tobytes()


def _from_places(content: bytes, itemsize: int) -> bytes:
    return np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(itemsize, -1).T).tobytes()


def _unpacked(packed: Mapping[str, Any], count: int, most_bytes: int) -> list[Array]:
    dtype, stored = _dtypes(packed)
    lengths, shape = _sizes(packed["lengths"], most_bytes), _sizes(packed["shape"], most_bytes)
    if len(lengths) != count or len(shape) >= _MOST_DIMENSIONS:
        raise ValueError(f"{len(lengths)} arrays of {1 + len(shape)} dimensions for {count} images")
    if max(1, sum(lengths)) * max(1, math.prod(shape)) * dtype.itemsize > most_bytes:
        raise ValueError(f"arrays of {sum(lengths)} x {shape} elements")
    size = sum(lengths) * math.prod(shape) * stored.itemsize
    content = bytes(decompressed(base64.b85decode(packed["data"]), size))
    if packed["layout"] == "places":
        content = _from_places(content, stored.itemsize)
    elif packed["layout"] != "elements":
        raise ValueError(f"the layout {packed['layout']!r:.40}")
    flat = np.frombuffer(content, stored)
    check_bits(flat)
    whole = flat.astype(dtype).reshape(sum(lengths), *shape)
    ends = np.cumsum([0, *lengths])
    return [whole[start:end].copy() for start, end in pairwise(ends)]


def _dtypes(packed: Mapping[str, Any]) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The type of the arrays, and the one that they are stored in."""
    dtype, stored = packed["dtype"], packed["stored"]
    plain = isinstance(dtype, str) and _PLAIN.fullmatch(dtype)
    if not plain or (stored != dtype and stored not in _NARROWER.get(dtype, ())):
        raise ValueError(f"arrays of the type {dtype!r:.40}, stored as {stored!r:.40}")
    return np.dtype(dtype), np.dtype(stored)


def _sizes(numbers: Any, most: int) -> list[int]:
    if not isinstance(numbers, list) or not all(type(size) is int and 0 <= size <= most for size in numbers):
        raise ValueError(f"the sizes {numbers!r:.60}")
    return numbers
