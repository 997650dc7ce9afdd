"""A trial of an engine is kept by machine, and a file that tells nothing sound costs a new one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.deploy.doctor import kept_trials, saturation
from sensitivity.deploy.doctor.kept_trials import FOLDER_VARIABLE, cache_folder, keep_trial, read_trial
from sensitivity.deploy.doctor.one_convolution import ConvolutionTrial
from sensitivity.deploy.engines.registry import EngineKind, kind_of
from tests.deploy.nets import SAFE
from tests.deploy.this_cpu import saturates

EXACT, SATURATING = ConvolutionTrial("int8", 0.0, 500.0), ConvolutionTrial("int8", 90.0, 500.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    saturation._known_trial.cache_clear()
    yield tmp_path / "cache"
    saturation._known_trial.cache_clear()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[EngineKind]:
    """The engines that were truly run."""
    kinds: list[EngineKind] = []

    def run(kind: EngineKind) -> ConvolutionTrial:
        kinds.append(kind)
        keep_trial(kind, EXACT)
        return EXACT

    monkeypatch.setattr(saturation, "trial_of", run)
    return kinds


def test_a_machine_is_asked_once_and_other_processes_read_the_answer(folder: Path, tried: list[EngineKind]) -> None:
    assert saturation.saturates_here("openvino") is False
    saturation._known_trial.cache_clear()  # as a new process
    assert saturation.saturates_here("openvino") is False
    assert len(tried) == 1
    assert len(list(folder.iterdir())) == 1


def test_what_was_kept_decides(folder: Path, tried: list[EngineKind]) -> None:
    keep_trial(kind_of("openvino"), SATURATING)
    assert saturation.saturates_here("openvino") is True
    assert tried == []
    assert sv.recipe_for("openvino").name == "int8-affine-7bit-weights"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"precision": "int8", "largest_error": "many", "largest_sum": 1}',
        b'{"precision": "int8", "largest_error": NaN, "largest_sum": 1}',
        b'{"precision": 8, "largest_error": 0, "largest_sum": 1}',
        b'{"precision": "int8", "largest_error": 0, "largest_sum": 0}',
        b'{"precision": "int8", "largest_error": -1, "largest_sum": 5}',
    ],
)
def test_a_damaged_file_costs_a_new_trial_and_is_written_again(
    folder: Path, tried: list[EngineKind], content: bytes
) -> None:
    keep_trial(kind_of("openvino"), SATURATING)
    (path,) = folder.iterdir()
    path.write_bytes(content)
    assert saturation.saturates_here("openvino") is False
    assert len(tried) == 1
    assert json.loads(path.read_text())["largest_error"] == 0.0


def test_another_cpu_version_or_variable_is_another_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = kind_of("openvino")
    keep_trial(kind, SATURATING)
    assert read_trial(kind) == SATURATING
    with monkeypatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
        assert read_trial(kind) is None
    with monkeypatch.context() as patch:
        patch.setattr(kept_trials, "cpu_facts", lambda: ("another",))
        assert read_trial(kind) is None
    with monkeypatch.context() as patch:
        patch.setattr(kept_trials, "version", lambda package: "0.0")
        assert read_trial(kind) is None
    assert read_trial(kind_of("onnxruntime")) is None


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: list[EngineKind]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file" / "folder"))
    keep_trial(kind_of("openvino"), EXACT)
    assert read_trial(kind_of("openvino")) is None


def test_engines_from_outside_are_not_kept(folder: Path) -> None:
    keep_trial(EngineKind(name="mine", title="mine", build=kind_of("openvino").build, package="numpy"), EXACT)
    assert not folder.exists()


def test_the_folder_is_the_users_own_for_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setattr(kept_trials.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "layer-sensitivity"
    monkeypatch.setattr(kept_trials.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "layer-sensitivity"


def test_a_deployed_engine_says_whether_it_saturates(shared: sv.Wrapped) -> None:
    assert shared.deploy(SAFE.protect("up"), "openvino").engine.saturates is saturates()
    assert shared.deploy(SAFE, "onnxruntime").engine.saturates is False
