"""Arrays of many images written as one: every bit comes back, and nothing crafted gets in."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sensitivity.errors import StoreFormatError
from sensitivity.sweep.storage.encoding import decode, encode
from sensitivity.sweep.storage.stacked import can_be_stacked, stack_arrays
from tests.sweep.storage.test_encoding import bits

DTYPES = st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes())


@st.composite
def batches(draw: st.DrawFn) -> dict[int, dict[str, Any]]:
    """Predictions of some images, alike but for the lengths of their arrays."""
    shapes = st.tuples(DTYPES, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    parts = draw(st.dictionaries(st.text(max_size=3), shapes, min_size=1, max_size=3))
    images = draw(st.lists(st.integers(0, 99), min_size=2, max_size=4, unique=True))
    lengths = st.integers(0, 3)
    return {
        image: {name: draw(hnp.arrays(dtype, (draw(lengths), *shape))) for name, (dtype, shape) in parts.items()}
        for image in images
    }


@given(batches())
def test_predictions_of_a_batch_come_back_to_the_last_bit(predictions: dict[int, dict[str, Any]]) -> None:
    text = json.dumps(encode(predictions), allow_nan=False)
    assert bits(decode(json.loads(text))) == bits(predictions)


def detections(draw: np.random.Generator, count: int) -> dict[str, Any]:
    """What a detector computed in float32 and a task keeps in float64."""
    scores = np.sort(draw.random(count, np.float32))[::-1].astype(np.float64)
    boxes = (draw.random((count, 4), np.float32) * np.float32(640)).astype(np.float64)
    return {"scores": scores, "labels": draw.integers(1, 90, count), "boxes": boxes}


def test_numbers_that_fit_half_the_bytes_take_half_of_them() -> None:
    draw = np.random.default_rng(0)
    trees = [detections(draw, 150) for _ in range(10)]
    assert can_be_stacked(trees)
    stored = {name: column["stored"] for name, column in stack_arrays(trees).items()}
    assert stored == {"scores": "<f4", "labels": "|u1", "boxes": "<f4"}
    trees[3]["scores"][7] += 1e-12
    trees[4]["labels"][5] = -1
    stored = {name: column["stored"] for name, column in stack_arrays(trees).items()}
    assert stored == {"scores": "<f8", "labels": "<i2", "boxes": "<f4"}


def test_a_batch_takes_less_room_than_its_arrays_one_by_one() -> None:
    draw = np.random.default_rng(0)
    trees = {image: detections(draw, 150) for image in range(10)}
    alone = sum(
        len(base64.b64encode(zlib.compress(array.tobytes(), 1))) for tree in trees.values() for array in tree.values()
    )
    assert len(json.dumps(encode(trees))) < 0.85 * alone


@pytest.mark.parametrize(
    "trees",
    [
        [{"a": np.zeros(2)}],
        [{"a": np.zeros(2)}, {"b": np.zeros(2)}],
        [{"a": np.zeros(2)}, {"a": np.zeros(2, np.float32)}],
        [{"a": np.zeros((2, 3))}, {"a": np.zeros((2, 4))}],
        [{"a": np.zeros(2, ">f8")}, {"a": np.zeros(2, ">f8")}],
        [{"a": np.float64(1)}, {"a": np.float64(1)}],
        [{"a": np.zeros(())}, {"a": np.zeros(())}],
        [{"a": np.zeros(1, "U3")}, {"a": np.zeros(1, "U3")}],
        [{"a": [1.0]}, {"a": [1.0]}],
        [{}, {}],
    ],
    ids=["one image", "names", "types", "shapes", "byte order", "scalars", "no dimension", "text", "lists", "nothing"],
)
def test_what_is_not_alike_is_written_one_by_one(trees: list[Any]) -> None:
    assert not can_be_stacked(trees)
    predictions = dict(enumerate(trees))
    assert bits(decode(json.loads(json.dumps(encode(predictions))))) == bits(predictions)


def column(**changes: Any) -> dict[str, Any]:
    """Two arrays of two float64 as ``stack_arrays`` writes them, but for the changes."""
    [whole] = stack_arrays([{"a": np.arange(2.0)}, {"a": np.arange(2.0)}]).values()
    return whole | changes


def data(content: bytes, tail: bytes = b"") -> str:
    return base64.b85encode(zlib.compress(content) + tail).decode()


@pytest.mark.parametrize(
    "crafted",
    [
        [[0, 1], {"a": column(lengths=[2])}],
        [[0, 1], {"a": column(lengths=[2, 2**40])}],
        [[0, 1], {"a": column(lengths=[3, -1])}],
        [[0, 1], {"a": column(lengths=[2.0, 2.0])}],
        [[0, 1], {"a": column(lengths=[0, 2**30], shape=[2**20])}],
        [[0, 1], {"a": column(shape=[1] * 40)}],
        [[0, 1], {"a": column(dtype="O", stored="O")}],
        [[0, 1], {"a": column(dtype="<f8", stored="<i8")}],
        [[0, 1], {"a": column(dtype=["<f8"])}],
        [[0, 1], {"a": column(layout="spiral")}],
        [[0, 1], {"a": column(data=data(bytes(200 * 2**20)))}],
        [[0, 1], {"a": column(data=data(bytes(32), b"tail"))}],
        [[0, 1], {"a": column(data='no base 85: "')}],
        [[0, 1], {"a": column(data=7)}],
        [[0, 1], {"a": column(dtype="|b1", stored="|b1", layout="elements", data=data(b"\2\0\0\0"))}],
        [[0, 0], {"a": column()}],
        [[0, [1]], {"a": column()}],
        [[0, 1], {"a": {}}],
        [[0, 1], [column()]],
        [[0, 1], {}],
        [[0, 1]],
        7,
    ],
    ids=range(22),
)
def test_a_crafted_batch_is_refused(crafted: Any) -> None:
    with pytest.raises(StoreFormatError, match="a value that no store writes"):
        decode({"$stack": crafted})
