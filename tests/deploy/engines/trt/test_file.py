from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sensitivity.deploy.engines.trt.file import MAGIC, BuiltEngine, EngineIdentity, read_engine, write_engine
from sensitivity.errors import EngineError

IDENTITY = EngineIdentity.of(b"model", "10.16.1.11", "GPU, compute capability 9.0")
PLAN = BuiltEngine(bytes(range(256)) + b"\n{}\n", ("x", "mask"), ("scores", "boxes"))


def test_an_engine_comes_back_byte_for_byte(tmp_path: Path) -> None:
    write_engine(tmp_path / "a.engine", PLAN, IDENTITY)
    assert read_engine(tmp_path / "a.engine", EngineIdentity.of(b"model", IDENTITY.tensorrt, IDENTITY.device)) == PLAN


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "0" * 64}, "another model"),
        ({"tensorrt": "11.4.0.106"}, r"built with TensorRT 10\.16\.1\.11, and this is 11\.4\.0\.106"),
        ({"device": "other"}, "built on GPU, compute capability 9.0, and this is other"),
    ],
)
def test_an_engine_for_something_else_is_refused(tmp_path: Path, changed: dict[str, str], words: str) -> None:
    write_engine(tmp_path / "a.engine", PLAN, IDENTITY)
    with pytest.raises(EngineError, match=words):
        read_engine(tmp_path / "a.engine", replace(IDENTITY, **changed))


@pytest.mark.parametrize("length", [len(MAGIC) + 20, -1])
def test_a_file_cut_short_is_damaged(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.engine"
    write_engine(path, PLAN, IDENTITY)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(EngineError, match="damaged"):
        read_engine(path, IDENTITY)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    write_engine(path, PLAN, IDENTITY)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match="is damaged"):
        read_engine(path, IDENTITY)


def test_another_file_is_no_engine(tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(PLAN.plan)
    with pytest.raises(EngineError, match="no TensorRT engine saved by this library"):
        read_engine(tmp_path / "a.engine", IDENTITY)


def test_a_missing_file_and_a_missing_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot be read: .*No such file"):
        read_engine(tmp_path / "none.engine", IDENTITY)
    with pytest.raises(EngineError, match=r"cannot be written to .*No such file"):
        write_engine(tmp_path / "none" / "a.engine", PLAN, IDENTITY)
