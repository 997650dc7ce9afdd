from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sensitivity.deploy.engines import ENGINES as BUILT_BY_NAME
from sensitivity.deploy.machine import ENGINES, examine


def test_every_engine_of_the_library_is_tried() -> None:
    assert set(ENGINES) == set(BUILT_BY_NAME)
    assert {one.name for one in examine()} == {*ENGINES, "cuda", "export"}


def test_the_engines_of_the_test_extra_work_here() -> None:
    found = {one.name: one for one in examine()}
    for name in ("torch", "export", "openvino", "onnxruntime"):
        assert found[name].works, found[name].note
        assert found[name].version
    assert found["torch"].version == torch.__version__
    assert "true int8 on" in found["openvino"].note
    assert "CPUExecutionProvider" in found["onnxruntime"].note


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("openvino", "openvino", "openvino"),
        ("onnxruntime", "onnxruntime", "onnx"),
        ("tensorrt", "tensorrt", "tensorrt"),
    ],
)
def test_a_missing_package_is_a_finding_with_what_to_install(
    package: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (found,) = [one for one in examine() if one.name == name]
    assert not found.works
    assert f"pip install 'sensitivity[{extra}]'" in found.note


def test_no_gpu_is_a_finding_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (found,) = [one for one in examine() if one.name == "cuda"]
    assert not found.works
    assert found.note == f"torch {torch.__version__} sees no GPU. Check the driver with nvidia-smi."


def test_it_answers_where_nothing_is_installed() -> None:
    code = """
import sys
for name in ("torch", "onnx", "onnxscript", "openvino", "onnxruntime", "tensorrt"):
    sys.modules[name] = None
from sensitivity.deploy.machine import examine
assert [one.works for one in examine()] == [False] * 6, examine()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
