from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from sensitivity.deploy.doctor.machine import examine
from sensitivity.deploy.doctor.one_convolution import GENTLE, INPUTS, STEP, WEIGHT_STEP, WHOLE, codes, graph, try_engine
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.engines.registry import engine_names
from sensitivity.errors import EngineError


def test_every_engine_of_the_library_is_tried() -> None:
    assert {finding.name for finding in examine()} == {*engine_names(), "cuda", "export"}


def test_the_engines_of_the_test_extra_work_here() -> None:
    findings = {finding.name: finding for finding in examine()}
    for name in ("torch", "export", "openvino", "onnxruntime", "onnxruntime-int8"):
        assert findings[name].works, findings[name].note
        assert findings[name].version
    assert torch.__version__.partition("+")[0] == findings["torch"].version.partition("+")[0]
    assert findings["openvino"].note.startswith("runs int8 as int8")
    assert findings["onnxruntime-int8"].note.startswith("runs int8 as int8")
    assert findings["onnxruntime"].note.startswith("runs int8 layers in fp32, sums exact (checked on one convolution)")
    assert "exact on one convolution" in findings["torch"].note
    assert findings["export"].note == "torch to ONNX (checked on one convolution), which every engine needs"
    assert "CPUExecutionProvider" in findings["onnxruntime"].note


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="a setting for x86")
def test_sums_that_saturate_are_found_where_there_is_no_vnni() -> None:
    code = (
        "from sensitivity.deploy.doctor.machine import examine; "
        "print([f.note for f in examine() if f.name == 'openvino'])"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "runs int8 as int8 but saturates: large sums are off by up to" in completed.stdout


def test_the_convolution_of_the_trial_is_what_the_onnx_reference_computes() -> None:
    x, weights, expected = codes(WHOLE)
    model = onnx.load_from_string(graph(weights, "onnx"))
    model.opset_import[0].version = 21  # the same operators; the reference starts at 19
    (output,) = ReferenceEvaluator(model).run(None, {"x": (x * STEP).astype(np.float32)})
    np.testing.assert_array_equal(output / (STEP * WEIGHT_STEP), expected)


def test_the_trial_can_saturate_only_where_it_is_meant_to() -> None:
    """Pairs of products of neighbouring input channels, activations shifted to 0 ... 255 as oneDNN does."""
    for largest, fits in ((GENTLE, True), (WHOLE, False)):
        x, weights, _ = codes(largest)
        products = weights[:, :, None] * (x.reshape(INPUTS, -1) + 128)[None]
        pairs = products[:, 0::2] + products[:, 1::2]
        assert (np.abs(pairs).max() < 2**15) is np.bool_(fits)


class Wrong(OrtEngine):
    """As an engine that computes something else."""

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        (output,) = super().run(*inputs)
        return (np.roll(output, 1, axis=1),)


class Silent(OrtEngine):
    """As an engine that does not tell its precisions."""

    def layer_info(self) -> list[Any]:
        return []


def test_an_engine_that_computes_something_else_does_not_work() -> None:
    with pytest.raises(EngineError, match=r"one convolution with Q/DQ is wrong: .* off by up to \d+"):
        try_engine(Wrong, "onnx")


def test_an_engine_that_does_not_tell_its_precision_is_not_believed() -> None:
    assert "in a precision that it does not tell" in str(try_engine(Silent, "onnx"))


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
    (finding,) = [candidate for candidate in examine() if candidate.name == name]
    assert not finding.works
    assert f"pip install -e '.[{extra}]'" in finding.note


def test_no_gpu_is_a_finding_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (finding,) = [candidate for candidate in examine() if candidate.name == "cuda"]
    assert not finding.works
    assert finding.note == f"torch {torch.__version__} sees no GPU. Check the driver with nvidia-smi."


def test_it_answers_where_nothing_is_installed() -> None:
    code = """
import sys
for name in ("torch", "onnx", "onnxscript", "openvino", "onnxruntime", "tensorrt"):
    sys.modules[name] = None
from sensitivity.deploy.doctor.machine import examine
assert [one.works for one in examine()] == [False] * 7, examine()
"""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
