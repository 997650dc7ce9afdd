"""The same backend for real: runs wherever CUDA and TensorRT are, and nowhere else."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.deploy.engines.trt.engine import TensorRTEngine
from sensitivity.errors import EngineError
from sensitivity.testing.engines import EngineSuite, GraphCase
from tests.deploy.engines.qdq_model import CHANNELS, SIDE, conv_relu_conv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or importlib.util.find_spec("tensorrt") is None,
        reason="needs a CUDA device and the package tensorrt (pip install -e '.[tensorrt]')",
    ),
]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def engine() -> TensorRTEngine:
    return TensorRTEngine.build(conv_relu_conv())


def test_both_convolutions_run_in_int8(engine: TensorRTEngine) -> None:
    precision = {node: layer.precision for layer in engine.layer_info() for node in layer.nodes}
    assert precision["conv1"] == "int8"
    assert precision["conv2"] == "int8"


def reference(image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(conv_relu_conv(), options, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": image})
    return np.asarray(expected)


class TestTensorRT(EngineSuite):
    """The suite that every engine passes; a code that differs by one moves an output by 0.04 at the most."""

    @pytest.fixture(scope="class")
    def graph_case(self, image: np.ndarray) -> GraphCase:
        return GraphCase((image,), (reference(image),), frozenset({"conv1", "conv2"}), tolerance=0.2)


def test_outputs_agree_with_onnx_runtime(engine: TensorRTEngine, image: np.ndarray) -> None:
    expected = reference(image)
    (output,) = engine.run(image)
    noise = np.sum((output - expected) ** 2)
    assert 10 * np.log10(np.sum(expected**2) / max(noise, 1e-30)) > 40  # dB; a code off by one in 10^4 costs about 1e-4


def test_a_dynamic_batch_gives_each_image_the_same(image: np.ndarray) -> None:
    engine = TensorRTEngine.build(conv_relu_conv(batch=None), batch=(1, 2, 4))
    (alone,) = engine.run(image)
    (together,) = engine.run(np.concatenate([image, -image, image]))
    np.testing.assert_allclose(together[:1], alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(together[2:], alone, rtol=0, atol=1e-5)


def test_every_time_belongs_to_a_layer(engine: TensorRTEngine, image: np.ndarray) -> None:
    assert engine.latency_s(image) > 0
    times_s = engine.profile(image)
    assert times_s
    assert {layer.name for layer in engine.layer_info() if layer.time_s is not None} == set(times_s)


def test_a_saved_engine_gives_the_same_bits(engine: TensorRTEngine, image: np.ndarray, tmp_path: Path) -> None:
    engine.save(tmp_path / "a.engine")
    again = TensorRTEngine.load(tmp_path / "a.engine", conv_relu_conv())
    np.testing.assert_array_equal(again.run(image)[0], engine.run(image)[0])
    with pytest.raises(EngineError, match="another model"):
        TensorRTEngine.load(tmp_path / "a.engine", conv_relu_conv(seed=1))


def test_the_second_build_takes_its_timings_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    for _ in range(2):
        TensorRTEngine.build(conv_relu_conv(), timing_cache=cache)
        assert cache.stat().st_size > 0


@pytest.fixture(scope="module")
def normed() -> sv.Wrapped:
    """Two convolutions with a norm between them, wide enough for int8."""
    torch.manual_seed(0)
    net = nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(CHANNELS, 32, 3, padding=1), norm=nn.GroupNorm(4, 32), conv2=nn.Conv2d(32, 32, 3))
    )
    example = torch.randn(1, CHANNELS, SIDE, SIDE)
    wrapped = sv.wrap(net.eval(), example)
    wrapped.calibrate([example], sv.INT8)
    return wrapped


@pytest.mark.parametrize("io", ["fp32", "fp16"])
@pytest.mark.parametrize("keep_fp32", [(), ("norms",)])
def test_a_rest_in_fp16_computes_what_onnx_runtime_computes(
    normed: sv.Wrapped, keep_fp32: tuple[str, ...], io: Any
) -> None:
    scheme = sv.Scheme.only("conv2", sv.INT8).with_rest("fp16", keep_fp32=keep_fp32)
    on_gpu, on_cpu = normed.deploy(scheme, "tensorrt", io=io), normed.deploy(scheme, "onnxruntime", io=io)
    for seed in range(4):
        x = torch.randn(1, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        wanted = on_cpu(x)
        noise = (on_gpu(x) - wanted).pow(2).sum()
        assert 10 * torch.log10(wanted.pow(2).sum() / noise.clamp(min=1e-30)) > 35  # dB: codes flip where halves round


def test_the_engine_says_which_layers_are_in_fp16(normed: sv.Wrapped) -> None:
    verification = normed.verify(normed.deploy(sv.Scheme.only("conv2", sv.INT8).with_rest("fp16"), "tensorrt"))
    assert [(check.planned, check.executed) for check in verification.layers] == [("fp16", "fp16"), ("int8", "int8")]
    assert verification.outputs_pass


def test_what_is_kept_in_fp32_does_not_overflow(normed: sv.Wrapped) -> None:
    """The variance of numbers in the hundreds leaves fp16; a norm between casts computes it in fp32."""
    x = 500 * torch.randn(1, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    scheme = sv.Scheme().with_rest("fp16", keep_fp32="norms")
    with torch.no_grad():
        wanted = normed.model(x)
    noise = (normed.deploy(scheme, "tensorrt")(x) - wanted).pow(2).sum()
    assert 10 * torch.log10(wanted.pow(2).sum() / noise) > 40


def test_codes_between_layers_can_be_read(image: np.ndarray) -> None:
    engine = TensorRTEngine.build(conv_relu_conv(), debug_tensors=True)
    tensors = engine.debug_tensors(image)
    assert tensors
    assert not engine.unread
