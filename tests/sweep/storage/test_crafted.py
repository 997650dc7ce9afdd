"""Stores that somebody crafted: each is refused with an error that names the file; none ends the interpreter."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensitivity.errors import PredictionError, StoreFormatError
from sensitivity.sweep.storage.encoding import MAX_DEPTH, decode, encode

HEADER = b'{"store": "sensitivity", "schema": 1}\n'


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode("ascii")


def array(dtype: Any, shape: Any, data: Any) -> dict[str, Any]:
    return {"$array": {"dtype": dtype, "shape": shape, "data": packed(data) if isinstance(data, bytes) else data}}


def nested(kind: str, depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"$tuple": [value]} if kind == "tuple" else [value] if kind == "list" else {"a": value}
    return value


EIGHT = bytes(8)
CRAFTED_VALUES: dict[str, Any] = {
    "objects": array("|O", [1], EIGHT),
    "many objects": array("O", [8], bytes(range(64))),
    "a structure": array([["x", "<f4"]], [2], EIGHT),
    "a structure of objects as text": array("O,O", [1], bytes(16)),
    "raw bytes": array("|V8", [1], EIGHT),
    "a python type": array("object", [1], EIGHT),
    "a subarray": array("(2,)f4", [1], EIGHT),
    "no type": array(None, [1], EIGHT),
    "a type of no size": array("<U0", [2**29], b""),
    "a type of a huge size": array("|S999999999", [9], b""),
    "a type of nines": array("<f99", [1], EIGHT),
    "a shape that is too large": array("<f8", [2], EIGHT),
    "a shape that is too small": array("<f4", [1], EIGHT),
    "a negative shape": array("<f4", [-2], EIGHT),
    "two negative sides": array("<f4", [-1, -2], EIGHT),
    "a fractional shape": array("<f4", [2.0], EIGHT),
    "a shape of truth": array("<f8", [True], EIGHT),
    "a shape of text": array("<f4", "2", EIGHT),
    "a number as shape": array("<f4", 2, EIGHT),
    "a shape beyond all memory": array("<f4", [2**62], EIGHT),
    "a product that wraps to 8 bytes": array("|u1", [2**32, 2**32, 8], EIGHT),
    "an overflow with a zero side": array("<f4", [0, 2**70], b""),
    "too many dimensions": array("|u1", [1] * 99, b"\0"),
    "a bomb": array("|u1", [8], bytes(200 * 2**20)),
    "a declared gigabyte": array("|u1", [2**30], EIGHT),
    "a declared terabyte": array("|u1", [2**40], EIGHT),
    "data that is no base64": array("<f8", [1], "%%%"),
    "data that is no zlib": array("<f8", [1], base64.b64encode(EIGHT).decode()),
    "data that ends early": array("<f8", [1], packed(EIGHT)[:-8]),
    "data with a tail": array("<f8", [1], base64.b64encode(zlib.compress(EIGHT) + b"tail").decode()),
    "data that is a number": array("<f8", [1], 7),
    "no data": {"$array": {"dtype": "<f8", "shape": [1]}},
    "an array that is a list": {"$array": [1, 2]},
    "an array that is null": {"$array": None},
    "a scalar with a shape": {"$scalar": {"dtype": "<f8", "shape": [1], "data": packed(EIGHT)}},
    "neither true nor false": array("|b1", [2], b"\x02\xff"),
    "text that is no characters": array("<U1", [1], b"\xff\xff\xff\x7f"),
    "a time of an unknown unit": array("<M8[fortnight]", [1], EIGHT),
    "a float of three bytes": {"$float": "abcdef"},
    "a float of letters": {"$float": "zz"},
    "a float of a list": {"$float": []},
    "bytes of a number": {"$bytes": 5},
    "bytes that are no base64": {"$bytes": "§"},
    "a tuple of text": {"$tuple": "abc"},
    "a tuple of a number": {"$tuple": 3},
    "a dict that is no pairs": {"$dict": [[1, 2, 3]]},
    "a dict of an object": {"$dict": {"a": 1}},
    "a dict with a list as key": {"$dict": [[[1], 2]]},
    "a dict with a key twice": {"$dict": [[1, 2], [1, 3]]},
    "an unknown kind": {"$pickle": "gASV"},
    "an unknown kind beside a known": {"$array": 1, "$b": 2},
    "tuples in tuples": nested("tuple", 200),
    "lists in lists": nested("list", 400),
    "objects in objects": nested("object", 400),
}
"""What no store writes, each under the name of what is wrong with it."""


def line(text: str) -> bytes:
    """A whole record, with the checksum that a crafted file has right."""
    rest = text[1:].encode("utf-8")
    return b'{"crc":"%08x",' % zlib.crc32(rest) + rest + b"\n"


def record(value: Any) -> bytes:
    return line(json.dumps({"key": "k", "value": value}))


DEEP = "[" * 100_000 + "]" * 100_000
CRAFTED_FILES: dict[str, bytes] = {
    "a record that is no JSON": HEADER + line('{"key":"k","value":'),
    "a record that is a list in an object": HEADER + line('{"value":[]}'),
    "a key that is a number": HEADER + line('{"key":5,"value":1}'),
    "a key that is a list": HEADER + line('{"key":[],"value":1}'),
    "a key that stands twice": HEADER + line('{"key":"k","key":"l","value":1}'),
    "a value that is no number": HEADER + line('{"key":"k","value":NaN}'),
    "an infinite value": HEADER + line('{"key":"k","value":[-Infinity]}'),
    "a number of ten thousand digits": HEADER + line('{"key":"k","value":' + "9" * 10_000 + "}"),
    "a nest of a hundred thousand": HEADER + line('{"key":"k","value":' + DEEP + "}"),
    "bytes that are no text": HEADER + b'{"crc":"%08x",' % zlib.crc32(b"\xff\xfe}") + b"\xff\xfe}\n",
    "a header that is a nest": b"[" * 100_000 + b"\n",
    "a header without an end": b'{"store": "sensitivity", "schema": ' + b"1" * 10_000_000,
    "a header of another schema": b'{"store": "sensitivity", "schema": [[]]}\n',
    "a damaged line before another": HEADER + b"zz\n" + record(1),
    "zeros for ever": bytes(10_000_000),
}

READER = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    from sensitivity.errors import StoreError
    from sensitivity.sweep.storage.journal import Journal
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    for path in sorted(Path(sys.argv[1]).iterdir()):
        print(path.name, end=": ", flush=True)
        try:
            with Journal(path) as journal:
                repr(journal.read("k"))
            print("READ", flush=True)
        except StoreError as error:
            print("refused" if str(path) in str(error) else f"UNNAMED {error}", flush=True)
        except BaseException as error:
            print(f"RAW {error!r:.200}", flush=True)
    """
)


def test_no_crafted_store_ends_the_interpreter_or_raises_anything_but_an_error_of_the_store(
    tmp_path: Path, repository: Path
) -> None:
    for name, value in CRAFTED_VALUES.items():
        (tmp_path / name).write_bytes(HEADER + record(value))
    for name, content in CRAFTED_FILES.items():
        (tmp_path / name).write_bytes(content)
    run = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)], cwd=repository, capture_output=True, text=True, timeout=120
    )
    outcomes = dict(outcome.rsplit(": ", 1) for outcome in run.stdout.splitlines())
    assert len(outcomes) == len(CRAFTED_VALUES) + len(CRAFTED_FILES) >= 60
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "refused"} == {}, run.stderr
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_refused_at_once(kind: str, tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "pipe" if kind == "pipe" else Path("/dev/zero")
    if kind == "pipe":
        os.mkfifo(path)
    code = f"from sensitivity.sweep.storage.journal import Journal; Journal({str(path)!r})"
    run = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=60)
    assert f"StoreFormatError: {path} is a pipe or a device" in run.stderr


def test_a_value_that_is_refused_says_what_is_wrong_with_it() -> None:
    with pytest.raises(StoreFormatError, match=r"an array of the type '\|O'"):
        decode(CRAFTED_VALUES["objects"])
    with pytest.raises(StoreFormatError, match="8 bytes"):
        decode(CRAFTED_VALUES["a bomb"])


def test_what_is_too_deep_to_be_read_back_is_not_written() -> None:
    assert decode(encode(nested("list", MAX_DEPTH))) == nested("list", MAX_DEPTH)
    with pytest.raises(PredictionError, match=f"more than {MAX_DEPTH} nests"):
        encode(nested("list", MAX_DEPTH + 1))


def test_what_is_too_large_to_be_read_back_is_not_written() -> None:
    huge = np.broadcast_to(np.zeros((), np.uint8), (2**31,))  # takes one byte
    with pytest.raises(PredictionError, match=r"an array of 2147483648 bytes.*scored_part"):
        encode(huge)
