"""Predictions as JSON and back, to the last bit.

No pickle: opening a store that came from elsewhere runs nobody's code. What JSON has is written as it is; the rest is
an object with one key that begins with ``$`` and says what it holds.

What is read back is checked before it is used: types are plain numbers, text or times; the bytes of an array are those
that its type and shape need, and no more than that is decompressed; nests and arrays have a largest size.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from sensitivity.errors import PredictionError, StoreFormatError
from sensitivity.sweep.storage.content import check_bits, decompressed
from sensitivity.sweep.storage.stacked import can_be_stacked, stack_arrays, unstack_arrays

MAX_DEPTH = 64
"""Nests in nests; predictions have two or three."""
MAX_ARRAY_BYTES = 2**30
"""Bytes of one array. A prediction that is larger could not be kept in memory for all images anyway."""
MAX_DIMENSIONS = 32

_PLAIN = re.compile(r"[<>|=][biufcSU]\d{1,9}|[<>=][mM]8(\[\d{0,9}(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?")
_MOST_GAIN = 1040  # zlib makes data at most 1032 times smaller
_FAST = 1  # of zlib's levels: predictions are mostly noise, a higher one costs time and gains little


def encode(tree: Any) -> Any:
    """What ``json`` can write, and ``decode`` turns back into an equal tree.

    Args:
        tree: Dicts, lists, tuples, numpy arrays and numbers, Python numbers, text, bytes and None. Arrays come back in
            C order, with the same type, shape and bits.

    Raises:
        PredictionError: If the tree holds anything else, or is larger or deeper than ``decode`` takes.
    """
    return _encode(tree, 0)


def _encode(tree: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise PredictionError(f"a store cannot keep a prediction of more than {MAX_DEPTH} nests in nests.")
    kind = type(tree)
    if tree is None or kind in (bool, int, str) or (kind is float and math.isfinite(tree)):
        return tree
    if kind is list:
        return [_encode(item, depth + 1) for item in tree]
    if kind is dict:
        return _encode_dict(tree, depth)
    if kind is tuple:
        return {"$tuple": [_encode(item, depth + 1) for item in tree]}
    if kind is float:
        return {"$float": struct.pack(">d", tree).hex()}
    if kind is bytes:
        return {"$bytes": base64.b64encode(tree).decode("ascii")}
    if kind is np.ndarray or isinstance(tree, np.generic):
        return {"$array" if kind is np.ndarray else "$scalar": _encode_array(np.asarray(tree))}
    raise PredictionError(
        f"a store cannot keep {kind.__module__}.{kind.__qualname__} in a prediction: {tree!r:.80}. Let the task's "
        "predict() return dicts, lists, numpy arrays, numbers and text."
    )


def decode(plain: Any) -> Any:
    """The tree that ``encode`` was given; its arrays may be written to.

    Raises:
        StoreFormatError: If ``encode`` cannot have written this.
    """
    try:
        return _decode(plain, 0)
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError, zlib.error, struct.error) as error:
        raise StoreFormatError(f"it holds a value that no store writes: {error!r:.200}") from error


def _decode(plain: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} nests in nests")
    if isinstance(plain, list):
        return [_decode(item, depth + 1) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) == 1:
        (name, value), *_ = plain.items()
        if name in _DECODERS:
            return _DECODERS[name](value, depth)
    if any(key.startswith("$") for key in plain):
        raise ValueError(f"an object of unknown kind: {', '.join(plain):.80}")
    return {key: _decode(value, depth + 1) for key, value in plain.items()}


def _encode_dict(tree: dict[Any, Any], depth: int) -> dict[str, Any]:
    values = list(tree.values())
    if can_be_stacked(values) and sum(array.nbytes for value in values for array in value.values()) <= MAX_ARRAY_BYTES:
        return {"$stack": [[_encode(key, depth + 1) for key in tree], stack_arrays(values)]}
    if all(type(key) is str and not key.startswith("$") for key in tree):
        return {key: _encode(value, depth + 1) for key, value in tree.items()}
    return {"$dict": [[_encode(key, depth + 1), _encode(value, depth + 1)] for key, value in tree.items()]}


def _encode_array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    if array.dtype.hasobject or array.dtype.kind == "V":
        raise PredictionError(
            f"a store cannot keep an array of {array.dtype} in a prediction. Give numbers, text or times."
        )
    if array.nbytes > MAX_ARRAY_BYTES:
        raise PredictionError(
            f"a store cannot keep an array of {array.nbytes} bytes in a prediction; the most is {MAX_ARRAY_BYTES}. "
            "Keep what is scored: let the task have a scored_part()."
        )
    data = base64.b64encode(zlib.compress(array.tobytes(), _FAST)).decode("ascii")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _decode_array(plain: dict[str, Any], _depth: int = 0) -> np.ndarray[Any, Any]:
    name, shape = plain["dtype"], plain["shape"]
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        raise ValueError(f"an array of the type {name!r:.40}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise ValueError(f"an array of the shape {shape!r:.60}")
    dtype = np.dtype(name)
    size = math.prod(shape) * dtype.itemsize
    data = base64.b64decode(plain["data"], validate=True)
    if max(size, math.prod(shape)) > min(MAX_ARRAY_BYTES, len(data) * _MOST_GAIN):
        raise ValueError(f"{len(data)} bytes of data for an array of {math.prod(shape)} elements and {size} bytes")
    array = np.ndarray(shape, dtype, buffer=decompressed(data, size))
    check_bits(array)
    return array


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number <= MAX_ARRAY_BYTES


def _decode_scalar(plain: dict[str, Any], _depth: int) -> Any:
    array = _decode_array(plain)
    if array.shape != ():
        raise ValueError(f"a single value of the shape {list(array.shape)}")
    return array[()]


def _decode_bytes(text: str, _depth: int) -> bytes:
    return base64.b64decode(text, validate=True)


def _decode_float(digits: str, _depth: int) -> float:
    number: float = struct.unpack(">d", bytes.fromhex(digits))[0]
    return number


def _decode_pairs(pairs: list[list[Any]], depth: int) -> dict[Any, Any]:
    tree = {_decode(key, depth + 1): _decode(value, depth + 1) for key, value in _listed(pairs)}
    if len(tree) != len(pairs):
        raise ValueError("a key that stands twice")
    return tree


def _decode_stack(pair: list[Any], depth: int) -> dict[Any, Any]:
    keys, plain = _listed(pair)
    names = [_decode(key, depth + 1) for key in _listed(keys)]
    tree = dict(zip(names, unstack_arrays(plain, len(names), most_bytes=MAX_ARRAY_BYTES), strict=True))
    if len(tree) != len(names):
        raise ValueError("a key that stands twice")
    return tree


def _decode_tuple(items: list[Any], depth: int) -> tuple[Any, ...]:
    return tuple(_decode(item, depth + 1) for item in _listed(items))


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} where a list belongs")
    return value


_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "$array": _decode_array,
    "$scalar": _decode_scalar,
    "$bytes": _decode_bytes,
    "$dict": _decode_pairs,
    "$float": _decode_float,
    "$stack": _decode_stack,
    "$tuple": _decode_tuple,
}
