"""Records from files that hold something else: one line of this library's own, whatever lies there."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from sensitivity.errors import RecipeError, StudyError
from sensitivity.records import Scheme, StudyRecord
from sensitivity.records.results.verification import VerificationRecord
from sensitivity.records.storage.files import read_bytes

KINDS = [(StudyRecord, StudyError), (Scheme, RecipeError), (VerificationRecord, StudyError)]


@pytest.mark.parametrize(("kind", "error"), KINDS)
def test_a_folder_is_no_record(kind: type, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match=r"cannot be read as a \w+: Is a directory\. Give a file written by"):
        kind.load(tmp_path)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "error"), KINDS)
def test_a_missing_file_is_told_with_what_writes_one(kind: type, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match=r"no \w+ at .*absent\.json\. .* writes one"):
        kind.load(tmp_path / "absent.json")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "error"), KINDS)
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x89PNG\r\n", b"", b"{", b"[" * 100_000], ids=range(5))
def test_what_is_no_json_is_told(kind: type, error: type[Exception], content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(error, match=r"a\.json is not JSON: .* Give a file written by"):
        kind.load(tmp_path / "a.json")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "error"), KINDS)
@pytest.mark.parametrize(
    "content",
    [
        "5",
        "[]",
        "null",
        '"text"',
        '{"rules": 5}',
        '{"rules": [5]}',
        '{"rules": [], "reasons": 5}',
        '{"rules": [{"pattern": "*", "recipe": "int8"}]}',
        '{"schema": 1}',
        '{"schema": 1, "recipes": [5]}',
        '{"schema": 1, "recipes": ["int8"]}',
        '{"schema": 1, "baseline": {"number": "many"}}',
        '{"schema": 1, "layers": [{"number": "many"}], "gates": {}}',
        '{"schema": 1, "layers": [5], "gates": {}}',
    ],
)
def test_json_of_something_else_is_told(kind: type, error: type[Exception], content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(error, match="not a "):
        kind.load(tmp_path / "a.json")  # type: ignore[attr-defined]


def test_a_file_that_is_too_large_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # a file of holes
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="it has more than the 33554432 bytes of the largest study"):
            read_bytes(tmp_path / "large", "study", most=2**25)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_small_file_takes_memory_for_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"{}")
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "small", "study") == b"{}"
        assert tracemalloc.get_traced_memory()[1] < 2**20  # not the most that a study may have
    finally:
        tracemalloc.stop()
