"""Predictions survive JSON to the last bit."""

from __future__ import annotations

import json
import math
import struct
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sensitivity.errors import PredictionError
from sensitivity.sweep.storage.encoding import decode, encode

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.unicode_string_dtypes(endianness="?"),
    hnp.byte_string_dtypes(),
    hnp.datetime64_dtypes(),
    hnp.timedelta64_dtypes(),
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), ARRAYS, hnp.from_dtype(np.dtype("f4"))
)
KEYS = st.one_of(st.text(), st.integers(), st.tuples(st.integers(), st.text()), st.sampled_from(["$array", "$tuple"]))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)


def bits(tree: Any) -> Any:
    """A value that is equal only for trees of the same types, shapes, order and bits."""
    if isinstance(tree, dict):
        return "dict", [(bits(key), bits(value)) for key, value in tree.items()]
    if isinstance(tree, (list, tuple)):
        return type(tree), [bits(item) for item in tree]
    if isinstance(tree, (np.ndarray, np.generic)):
        return type(tree), tree.dtype.str, tree.shape, tree.tobytes()
    return type(tree), struct.pack(">d", tree) if isinstance(tree, float) else tree


@given(TREES)
def test_a_tree_comes_back_to_the_last_bit(tree: Any) -> None:
    text = json.dumps(encode(tree), allow_nan=False)
    assert bits(decode(json.loads(text))) == bits(tree)


@pytest.mark.parametrize(
    "number", [math.nan, -math.inf, -0.0, 5e-324, 1.0, struct.unpack(">d", b"\xff\xf8" + b"\1" * 6)[0]]
)
def test_a_float_keeps_its_bits(number: float) -> None:
    assert struct.pack(">d", decode(encode(number))) == struct.pack(">d", number)


def test_an_array_that_came_back_may_be_written_to() -> None:
    back = decode(encode(np.zeros((2, 3))))
    back += 1
    assert back.sum() == 6


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2), "cannot keep torch.Tensor"),
        ({"boxes": [object()]}, "cannot keep builtins.object"),
        (OrderedDict(a=1), "cannot keep collections.OrderedDict"),
        (np.array([None]), "an array of object"),
        (np.zeros(1, [("x", "f4")]), r"an array of \[\('x'"),
    ],
)
def test_what_is_no_data_is_refused(value: Any, message: str) -> None:
    with pytest.raises(PredictionError, match=message):
        encode(value)
