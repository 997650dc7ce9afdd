"""The same backend for real: runs wherever CUDA and TensorRT are, and nowhere else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

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
    (found,) = engine.run(image)
    noise = np.sum((found - expected) ** 2)
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


def test_codes_between_layers_can_be_read(image: np.ndarray) -> None:
    engine = TensorRTEngine.build(conv_relu_conv(), debug_tensors=True)
    tensors = engine.debug_tensors(image)
    assert tensors
    assert not engine.unread
