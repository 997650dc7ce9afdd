"""The TensorRT backend without TensorRT: what it says when the package or the GPU is missing."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from sensitivity.deploy.engines.trt.build import BuildSettings
from sensitivity.deploy.engines.trt.device import CudaDevice, no_cuda, read_host
from sensitivity.deploy.engines.trt.engine import TensorRTEngine
from sensitivity.errors import EngineBuildError, EngineError, MissingPackageError


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingPackageError, match=r"pip install -e '\.\[tensorrt\]'"):
        TensorRTEngine.build(b"model")


def test_a_missing_gpu_is_said_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("tensorrt")
    package.__version__ = "10.16.1.11"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", package)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"needs a CUDA device: torch .* doctor"):
        TensorRTEngine.build(b"model")


@pytest.mark.parametrize(("cuda", "words"), [(None, "built without CUDA"), ("13.0", "sees no GPU")])
def test_the_reason_why_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch, cuda: str | None, words: str) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert words in (no_cuda() or "")
    with pytest.raises(EngineError, match=words):
        CudaDevice()


def test_with_cuda_there_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert no_cuda() is None


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 4), (1, 8, 4)])
def test_batch_sizes_out_of_order_are_refused(batch: tuple[int, int, int]) -> None:
    with pytest.raises(EngineBuildError, match="smallest, usual, largest"):
        BuildSettings(batch=batch)


def test_host_memory_is_read_as_a_copy() -> None:
    tensor = torch.arange(6, dtype=torch.int16).reshape(2, 3)
    values = read_host(tensor.data_ptr(), (2, 3), torch.int16)
    tensor.zero_()
    assert values.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_host(tensor.data_ptr(), (0, 3), torch.int16).shape == (0, 3)


def test_the_backend_imports_without_tensorrt_and_does_not_look_for_it() -> None:
    code = (
        "import sys; import sensitivity.deploy.engines.trt.engine, sensitivity.deploy.engines.trt.build; "
        "sys.exit('tensorrt' in sys.modules)"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
