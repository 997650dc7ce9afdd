"""ONNX Runtime's static quantization."""

from __future__ import annotations

from typing import Any

import numpy as np
from job import Job, answer, layers_of_onnx


class _Reader:
    def __init__(self, name: str, side: int) -> None:
        noise = np.random.default_rng(0)
        self._batches = [{name: noise.normal(size=(1, 3, side, side)).astype(np.float32)} for _ in range(4)]

    def get_next(self) -> Any:
        return self._batches.pop() if self._batches else None


def work(job: Job) -> tuple[list[str], str]:
    import onnx
    import onnxruntime

    float_onnx, int8_onnx = job.folder / "float.onnx", job.folder / "int8.onnx"
    reader = _Reader(onnx.load(float_onnx).graph.input[0].name, job.side)
    job.pasted(float_onnx=float_onnx, int8_onnx=int8_onnx, calibration_data_reader=reader)
    return layers_of_onnx(onnx.load(int8_onnx)), onnxruntime.__version__


if __name__ == "__main__":
    answer(work)
