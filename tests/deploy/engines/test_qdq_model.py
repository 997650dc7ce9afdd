"""The model of the GPU tests, run by ONNX Runtime here, so that those tests fail for no reason of their own."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from tests.deploy.engines.qdq_model import CHANNELS, SIDE, conv_relu_conv


@pytest.mark.parametrize("batch", [1, None])
def test_onnx_runtime_runs_it_and_most_codes_are_inside_the_range(batch: int | None) -> None:
    session = onnxruntime.InferenceSession(conv_relu_conv(batch=batch), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=(batch or 3, CHANNELS, SIDE, SIDE)).astype(np.float32)
    (output,) = session.run(None, {"x": image})
    assert output.shape == image.shape
    assert np.isfinite(output).all()
    assert output.std() > 1


def test_another_seed_is_another_model() -> None:
    assert conv_relu_conv() == conv_relu_conv()
    assert conv_relu_conv() != conv_relu_conv(seed=1)
