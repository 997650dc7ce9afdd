"""Predictions as JSON and back, to the last bit.

No pickle: opening a store that came from elsewhere runs nobody's code. What JSON has is written as it is; the rest is
an object with one key that begins with ``$`` and says what it holds.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from sensitivity.errors import PredictionError

_FAST = 1  # of zlib's levels: predictions are mostly noise, a higher one costs time and gains little


def encode(tree: Any) -> Any:
    """What ``json`` can write, and ``decode`` turns back into an equal tree.

    Args:
        tree: Dicts, lists, tuples, numpy arrays and numbers, Python numbers, text, bytes and None. Arrays come back in
            C order, with the same type, shape and bits.

    Raises:
        PredictionError: If the tree holds anything else.
    """
    kind = type(tree)
    if tree is None or kind in (bool, int, str) or (kind is float and math.isfinite(tree)):
        return tree
    if kind is list:
        return [encode(item) for item in tree]
    if kind is dict:
        return _encode_dict(tree)
    if kind is tuple:
        return {"$tuple": [encode(item) for item in tree]}
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
    """The tree that ``encode`` was given; its arrays may be written to."""
    if isinstance(plain, list):
        return [decode(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) == 1:
        (name, value), *_ = plain.items()
        if name in _DECODERS:
            return _DECODERS[name](value)
    return {key: decode(value) for key, value in plain.items()}


def _encode_dict(tree: dict[Any, Any]) -> dict[str, Any]:
    if all(type(key) is str and not key.startswith("$") for key in tree):
        return {key: encode(value) for key, value in tree.items()}
    return {"$dict": [[encode(key), encode(value)] for key, value in tree.items()]}


def _encode_array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    if array.dtype.hasobject or array.dtype.kind == "V":
        raise PredictionError(
            f"a store cannot keep an array of {array.dtype} in a prediction. Give numbers, text or times."
        )
    data = base64.b64encode(zlib.compress(array.tobytes(), _FAST)).decode("ascii")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _decode_array(plain: dict[str, Any]) -> np.ndarray[Any, Any]:
    data = bytearray(zlib.decompress(base64.b64decode(plain["data"])))
    return np.ndarray(plain["shape"], np.dtype(plain["dtype"]), buffer=data)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "$array": _decode_array,
    "$scalar": lambda plain: _decode_array(plain)[()],
    "$bytes": base64.b64decode,
    "$dict": lambda pairs: {decode(key): decode(value) for key, value in pairs},
    "$float": lambda digits: struct.unpack(">d", bytes.fromhex(digits))[0],
    "$tuple": lambda items: tuple(decode(item) for item in items),
}
